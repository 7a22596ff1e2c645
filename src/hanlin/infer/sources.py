"""From the one path that a user names to all an engine needs: base, adapter, tokenizer, template, system prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanlin.errors import UserError
from hanlin.model.adapter_files import CONFIG_FILE, AdapterFiles, find_adapter, read_adapter
from hanlin.model.choose import recorded_access
from hanlin.model.hub import Access, Origin, local_tokenizer
from hanlin.model.identity import Record, read_record, weights_identity
from hanlin.model.load import choose_variant, find_checkpoint, load_config, open_base
from hanlin.names import is_hub_id
from hanlin.vocab.tokenizer import TextTokenizer

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")

TEMPLATES_OF_PUBLISHED = {"chinese-alpaca": "alpaca"}
"""Template by published tokenizer, for adapters older than any record. The second generation has one tokenizer for its
base and its chat models, so there nothing follows from it."""


@dataclass(frozen=True)
class Sources:
    """What is to be loaded, and what goes with it."""

    base: str
    """Folder or hub id of the base model."""
    directory: Path
    """Where the base lies on this machine."""
    adapter: AdapterFiles | None
    tokenizer: TextTokenizer
    template: str | None
    """Recorded template; None: nothing is recorded."""
    system: str | None
    record: Record | None
    notices: tuple[str, ...]
    origin: Origin | None = None
    """Hub and commit of the base, None for a folder."""
    variant: str | None = None
    """Family of 2023 that the base is read as, where its config.json does not decide."""

    def describe(self) -> dict[str, Any]:
        """Names and identities, as JSON values."""
        return {
            "model": self.base,
            "model_revision": self.origin.revision if self.origin else None,
            "adapter": str(self.adapter.directory) if self.adapter else None,
            "adapter_identity": self.adapter.identity() if self.adapter else None,
        }


def find_sources(
    model: str | None,
    adapter: str | None,
    tokenizer: str | None,
    *,
    access: Access,
    chosen_hub: bool = False,
    variant: str | None = None,
    family: str | None = None,
) -> Sources:
    """Resolve what ``--model``, ``--adapter`` and ``--tokenizer`` say; loads the tokenizer and no weights.

    ``model`` may be an adapter or a training run itself. A base that an adapter's record names comes from the recorded
    hub and commit, unless the user chose (``chosen_hub``, or a revision in ``access``). ``variant`` and ``family``
    (that of the catalog's entry) tell a base of 2023 whose config.json does not. Raises UserError when something is
    missing or contradicts the record: a tokenizer other than the one trained with gives other meanings to the ids.
    """
    notices: list[str] = []
    elsewhere = replace(access, revision=None, ignore_file_pattern=())
    found = _find_adapter_files(model, adapter, elsewhere)
    if found is not None:
        notices += found.notices
    base = model if adapter is not None and model else (_base_of(found) if found else model)
    assert base is not None, "either a model or an adapter is named"
    place = "--model" if model else "--adapter"
    of_base = access
    if found is not None and found.record is not None and found.record.base_model == base:
        of_base = recorded_access(found.record, access, chosen_hub=chosen_hub)
    directory, origin = find_checkpoint(base, place, of_base)
    recorded = found.record.base_variant if found is not None and found.record is not None else None
    variant = choose_variant(directory, variant, recorded=recorded, family=family)
    config = load_config(directory, place, variant=variant)  # before the tokenizer, whose library reads it too
    if found is not None:
        _check_base(found, directory, variant, named=bool(adapter and model))
    record = found.record if found else read_record(directory)
    loaded = _load_tokenizer(tokenizer, found, directory, access)
    if record is not None and record.tokenizer_identity != loaded.identity:
        raise UserError(
            "--tokenizer" if tokenizer else place,
            f"{tokenizer or loaded.source} is another tokenizer than the one trained with (recorded: "
            f"{record.tokenizer_identity[:12]}, found: {loaded.identity[:12]})",
            mend="leave --tokenizer out" if tokenizer else "put the tokenizer files of the training run back",
        )
    _check_rows(loaded, found, config, "--tokenizer" if tokenizer else place)
    template = record.template if record else None
    if record is None:
        template = TEMPLATES_OF_PUBLISHED.get(loaded.known or "")
        if template:
            notices.append(f"the tokenizer is the published one of {loaded.known}: its template {template} is used")
    return Sources(
        base=base,
        directory=directory,
        adapter=found,
        tokenizer=loaded,
        template=template,
        system=record.system if record else None,
        record=record,
        notices=tuple(notices),
        origin=origin,
        variant=variant,
    )


def _find_adapter_files(model: str | None, adapter: str | None, access: Access) -> AdapterFiles | None:
    """The adapter that is meant, or None when ``model`` is a model itself."""
    if adapter is not None:
        return read_adapter(adapter, "--adapter", access)
    assert model is not None
    path = Path(model).expanduser()
    if path.is_file() and path.name == CONFIG_FILE:
        path = path.parent
    if not path.is_dir() or ((path / "config.json").is_file() and not (path / CONFIG_FILE).is_file()):
        return None
    try:
        directory = find_adapter(path, "--model")
    except UserError as error:
        if "holds no adapter" not in error.problem:
            raise
        raise UserError(
            "--model",
            f"{path} holds neither a model nor an adapter (no config.json, no {CONFIG_FILE})",
            expected="the folder of a model, of an adapter or of a training run",
        ) from error
    return read_adapter(directory, "--model")


def _base_of(adapter: AdapterFiles) -> str:
    """The base that the adapter's own record, or else its settings, name. Relative paths are also tried from the
    adapter's folder, so that a folder with both can be moved."""
    named = (adapter.record.base_model if adapter.record else None) or adapter.base_model_name_or_path
    if not named:
        raise UserError(
            adapter.directory / CONFIG_FILE,
            "names no base model",
            mend="name it: --model BASE --adapter " + str(adapter.directory),
        )
    for candidate in (Path(named).expanduser(), adapter.directory / named):
        if candidate.is_dir():
            return str(candidate)
    if not is_hub_id(named):
        raise UserError(
            adapter.directory,
            f"its base model {named} does not exist here",
            mend=f"name the base: --model BASE --adapter {adapter.directory}",
        )
    return named


def _check_base(adapter: AdapterFiles, base: Path, variant: str | None, *, named: bool) -> None:
    """Refuse a base that has the adapter in it already, and another base than the one it was trained on.

    The weights are hashed only where the user ``named`` a base, because that reads every file once more: the recorded
    path is taken at its word.
    """
    own = read_record(base)
    if own is not None and own.chain and adapter.identity() in own.chain:
        raise UserError(
            "--model",
            f"{base} already contains the adapter {adapter.name}, which would be applied twice",
            mend="leave --adapter out, or name the base that the adapter was trained on",
        )
    wanted = adapter.record.base_identity if adapter.record else None
    if named and wanted is not None and weights_identity(open_base(base, "--model", variant=variant)) != wanted:
        raise UserError(
            "--model",
            f"{base} is not the base of {adapter.name}",
            expected=f"{adapter.record.base_model if adapter.record else None}, weights {wanted[:12]}",
            mend="leave --model out, or name the base that the adapter was trained on",
        )


def _check_rows(tokenizer: TextTokenizer, adapter: AdapterFiles | None, config: Any, place: str) -> None:
    """Refuse a tokenizer with more ids than the embedding has rows, as far as files tell before weights are loaded."""
    rows = adapter.embedding_rows() if adapter else None
    if rows is None:
        rows = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(rows, int) and len(tokenizer) > rows:
        raise UserError(
            place,
            f"the tokenizer has {len(tokenizer):,} tokens, and the model {rows:,} rows",
            expected="a tokenizer of the model's own size",
            mend="name the tokenizer that the model was trained with",
        )


def _load_tokenizer(tokenizer: str | None, adapter: AdapterFiles | None, base: Path, access: Access) -> TextTokenizer:
    """The tokenizer that is named, else the adapter's, else the base's."""
    if tokenizer is not None:
        return TextTokenizer.load(local_tokenizer(tokenizer, "--tokenizer", access), place="--tokenizer")
    if adapter is not None and any((adapter.directory / name).is_file() for name in _TOKENIZER_FILES):
        return TextTokenizer.load(str(adapter.directory), place="--adapter")
    return TextTokenizer.load(str(base), place="--model")
