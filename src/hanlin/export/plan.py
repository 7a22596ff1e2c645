"""What will be merged, checked before anything is written: order, widths, vocabulary, whose base it is, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hanlin import __version__
from hanlin.errors import UserError
from hanlin.export.merged import MergedWeights, embedding_name, head_name
from hanlin.model.adapter_files import AdapterFiles, read_adapter
from hanlin.model.choose import recorded_access
from hanlin.model.hub import Access, Origin, default_access, local_tokenizer
from hanlin.model.identity import Record, read_record, weights_identity
from hanlin.model.load import choose_variant, config_values, find_checkpoint, load_config, open_base
from hanlin.model.native.adapters import native_adapter
from hanlin.model.published import check_published
from hanlin.model.weights import WeightIndex
from hanlin.vocab.tokenizer import TextTokenizer

PADDED_TO = (8, 16, 32, 64, 128, 256, 512)
"""Multiples to which the rows of an embedding may have been rounded up beyond its tokenizer."""

SAME_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
"""Settings in which a config.json that travels with an adapter must agree with the base's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """A merge that has passed every check. ``steps`` are the base with one, two ... adapters, the result last."""

    base_folder: Path
    base: WeightIndex
    variant: str | None
    """Family of 2023 that the base is read as, where its config.json does not decide."""
    adapters: tuple[AdapterFiles, ...]
    steps: tuple[MergedWeights, ...]
    config: Mapping[str, Any]
    """config.json of the result."""
    config_folder: Path
    """Where the configuration files come from: the last adapter that brings a config.json, else the base."""
    tokenizer: TextTokenizer
    tokenizer_path: Path | None
    """Folder whose tokenizer files are copied; None: the tokenizer writes its own."""
    record: Record
    notices: tuple[str, ...]

    @property
    def result(self) -> MergedWeights:
        """The merged weights."""
        return self.steps[-1]

    @property
    def vocab_rows(self) -> int:
        """Rows of the result's embedding."""
        return int(self.config["vocab_size"])


def plan_merge(
    base: Path | str | None,
    adapters: Sequence[Path | str],
    *,
    tokenizer: str | None = None,
    dtype: torch.dtype | None = None,
    allow_other_base: bool = False,
    access: Access | None = None,
    chosen_hub: bool = False,
    variant: str | None = None,
    family: str | None = None,
) -> MergePlan:
    """Open the base and the adapters (in order) and check that they belong together; loads the base to hash it once.

    ``base`` None takes the base that the first adapter names, from the hub and commit in its record unless the user
    chose (``chosen_hub``, or a revision in ``access``). ``dtype`` None keeps the base's. ``variant`` and ``family``
    (that of the catalog's entry) tell a base of 2023 whose config.json does not. Raises UserError.
    """
    access = access or default_access()
    elsewhere = replace(access, revision=None, ignore_file_pattern=())
    files = tuple(read_adapter(path, access=elsewhere) for path in adapters)
    notices = [notice for adapter in files for notice in adapter.notices]
    base_folder, base_name, origin = _base_folder(base, files[0], notices, access, chosen_hub)
    read_config(base_folder)  # a quantised base has a sentence of its own
    recorded = files[0].record.base_variant if files[0].record else None
    variant = choose_variant(base_folder, variant, recorded=recorded, family=family)
    index = open_base(base_folder, "--model", variant=variant)
    notices += index.notices
    base_config = config_values(base_folder, variant=variant)
    # An architecture that could not be loaded is refused before the work.
    loadable = load_config(base_folder, variant=variant)
    files = tuple(native_adapter(adapter, loadable) for adapter in files)
    notices += [notice for adapter in files if adapter.stored for notice in adapter.notices]
    base_rows = _check_order(index, files)
    steps = _steps(index.finished(), files, tied=_is_tied(base_config, index), dtype=dtype)
    _check_embedding_and_head(steps[-1], base_folder)
    _check_something_changes(steps)
    identity = weights_identity(index)
    record = read_record(base_folder)
    given = local_tokenizer(tokenizer, "--tokenizer", elsewhere) if tokenizer is not None else None
    found, path = _tokenizer(given, files, base_folder)
    if not allow_other_base:
        _check_published(files, base_name, base_folder, index, found)
    chain = _check_bases(steps, identity, record, notices, allow_other_base=allow_other_base)
    rows = _check_tokenizer(found, steps[-1], files[-1], index, given=tokenizer is not None, notices=notices)
    config, config_folder = _config(base_folder, base_config, steps[-1], files, rows, notices)
    _compare_special_ids(config, found, notices)
    last = files[-1].record or record
    return MergePlan(
        base_folder=base_folder,
        base=index,
        variant=variant,
        adapters=files,
        steps=steps,
        config=config,
        config_folder=config_folder,
        tokenizer=found,
        tokenizer_path=path,
        record=Record(
            kind="model",
            stage="merge",
            base_model=record.base_model if record and record.chain else base_name,
            base_identity=record.base_identity if record and record.chain else identity,
            tokenizer_identity=found.identity,
            template=last.template if last else None,
            system=last.system if last else None,
            chain=chain,
            base_vocab_rows=base_rows,
            hanlin_version=__version__,
            base_hub=record.base_hub if record and record.chain else origin.hub if origin else None,
            base_revision=record.base_revision if record and record.chain else origin.revision if origin else None,
            base_variant=record.base_variant if record and record.chain else variant,
            stop=_stops(files, record),
        ),
        notices=tuple(dict.fromkeys(notices)),
    )


def _stops(adapters: Sequence[AdapterFiles], base: Record | None) -> tuple[str, ...]:
    """Tokens at which the result was taught to stop, those of the last adapter first, as one merge after another."""
    records = [*(adapter.record for adapter in reversed(adapters)), base]
    return tuple(dict.fromkeys(token for record in records if record is not None for token in record.stop))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder. Raises UserError."""
    file = folder / "config.json"
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("--model", f"{folder} holds no config.json", mend="complete the model folder") from error
    except ValueError as error:
        raise UserError(file, f"is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(file, f"holds {type(config).__name__}", expected="an object")
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown")
        raise UserError(
            file,
            f"the base is quantised ({method})",
            expected="weights in 16 or 32 bits",
            mend="merge into the base it was quantised from",
        )
    return config


def _base_folder(
    base: Path | str | None, first: AdapterFiles, notices: list[str], access: Access, chosen_hub: bool
) -> tuple[Path, str, Origin | None]:
    """Local folder of the base, its name as given, and where it came from."""
    name = str(base) if base is not None else None
    if name is None:
        recorded = first.record.base_model if first.record else None
        name = recorded or first.base_model_name_or_path
        if not name:
            raise UserError("--model", "is missing, and the adapter does not name its base", mend="add --model PATH")
        notices.append(f"the base is {name}, as {first.directory} says")
    if first.record is not None and first.record.base_model == name:
        access = recorded_access(first.record, access, chosen_hub=chosen_hub)
    folder, origin = find_checkpoint(name, "--model", access)
    return folder, name, origin


def _is_tied(config: Mapping[str, Any], index: WeightIndex) -> bool:
    """Whether the head is the embedding. A head that is in the file counts only when the settings say it is untied."""
    declared = config.get("tie_word_embeddings")
    if declared is None:
        return head_name(index.tensors) is None
    return bool(declared)


def _check_order(index: WeightIndex, adapters: Sequence[AdapterFiles]) -> int | None:
    """Vocabularies only grow from the base through the adapters; returns the rows of the base's embedding."""
    name = embedding_name(index)
    if name is None:
        return None
    base_rows = rows = index.tensors[name].shape[0]
    before = "the base"
    for adapter in adapters:
        new = adapter.embedding_rows()
        if new is None:
            continue
        if new < rows:
            listed = ",".join(str(a.directory) for a in reversed(adapters))
            several = len(adapters) > 1 and before != "the base"
            raise UserError(
                "--adapter",
                f"{adapter.directory} has {new} vocabulary rows and {before} before it has {rows}",
                expected="a vocabulary that grows from the base through the adapters",
                mend=f"the order is reversed: --adapter {listed}" if several else "it belongs to a smaller base",
            )
        rows, before = new, str(adapter.directory)
    return base_rows


def _steps(
    index: WeightIndex, adapters: Sequence[AdapterFiles], *, tied: bool, dtype: torch.dtype | None
) -> tuple[MergedWeights, ...]:
    steps: list[MergedWeights] = []
    below: WeightIndex = index
    for adapter in adapters:
        last = adapter is adapters[-1]
        # Intermediate results keep the base's dtype: what a later adapter was trained on is a merge that was written.
        step = MergedWeights(below, adapter, tied=tied, dtype=dtype if last else None)
        steps.append(step)
        below, tied = step, step.tied
    return tuple(steps)


def _check_embedding_and_head(result: MergedWeights, base_folder: Path) -> None:
    embedding, head = embedding_name(result), head_name(result.tensors)
    if embedding is None or head is None:
        return
    rows = result.tensors[embedding].shape[0], result.tensors[head].shape[0]
    if rows[0] != rows[1]:
        raise UserError(
            result.adapter.directory,
            f"after it {embedding} has {rows[0]} rows and {head} has {rows[1]}; {base_folder} does not tie the two",
            mend="train both: --modules_to_save embed_tokens,lm_head",
        )


def _check_something_changes(steps: Sequence[MergedWeights]) -> None:
    for step in steps:
        if not step.changes_something():
            raise UserError(
                step.adapter.directory,
                "changes nothing: every low-rank update is zero and no module was trained in full",
                mend="it was saved before training or emptied by the saver: take a good checkpoint",
            )


def _check_bases(
    steps: Sequence[MergedWeights],
    base_identity: str,
    base_record: Record | None,
    notices: list[str],
    *,
    allow_other_base: bool,
) -> tuple[str, ...]:
    """Compare each adapter's record with what it is merged into; returns the chain of the result."""
    chain = base_record.chain if base_record else ()
    for position, step in enumerate(steps):
        adapter, record = step.adapter, step.adapter.record
        problem = ""
        if record is None or record.base_identity is None:
            notices.append(f"{adapter.directory} has no record of its base: that it belongs here is not checked")
        elif record.chain != chain:
            problem = (
                f"was trained with {len(record.chain)} adapter(s) already merged in ({_short(record.chain)}), "
                f"and here it meets {len(chain)} ({_short(chain)})"
            )
        else:
            below = base_identity if position == 0 else weights_identity(steps[position - 1])
            if record.base_identity != below:
                problem = f"was trained on other weights ({record.base_identity[:12]}, not {below[:12]})"
        if problem:
            name = f"; its base was {record.base_model}" if record and record.base_model else ""
            if not allow_other_base:
                raise UserError(
                    adapter.directory,
                    problem + name,
                    mend="name that base with --model, with all its adapters in order, or add --allow_other_base",
                )
            notices.append(f"warning: {adapter.directory} {problem}{name}")
        chain = (*chain, adapter.identity())
    return chain


def _check_published(
    adapters: Sequence[AdapterFiles], base_name: str, base_folder: Path, index: WeightIndex, tokenizer: TextTokenizer
) -> None:
    """The rules of the published families for adapters without a record, each with the rows that it meets."""
    rows = _rows(index)
    for adapter in adapters:
        if adapter.record is None and rows is not None:
            known = tokenizer.known if adapter is adapters[-1] else None
            check_published(
                adapter, base_name=base_name, base_folder=base_folder, base_rows=rows, tokenizer_known=known
            )
        rows = adapter.embedding_rows() or rows


def _short(chain: Sequence[str]) -> str:
    return ", ".join(identity[:12] for identity in chain) or "none"


def _tokenizer(
    given: str | None, adapters: Sequence[AdapterFiles], base_folder: Path
) -> tuple[TextTokenizer, Path | None]:
    """The tokenizer and the folder to copy it from: as given, else the last adapter's, else the base's."""
    if given is not None:
        tokenizer = TextTokenizer.load(given, place="--tokenizer")
        folder = Path(given).expanduser()
        complete = (folder / "tokenizer_config.json").is_file() and not tokenizer.is_converted
        return tokenizer, folder if complete else None
    for folder in (*(adapter.directory for adapter in reversed(adapters)), base_folder):
        if any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")):
            tokenizer = TextTokenizer.load(str(folder), place=str(folder))
            complete = (folder / "tokenizer_config.json").is_file() and not tokenizer.is_converted
            return tokenizer, folder if complete else None
    raise UserError(
        "--tokenizer",
        f"neither {adapters[-1].directory} nor {base_folder} holds a tokenizer",
        expected="a tokenizer to put beside the merged weights",
        mend="add --tokenizer PATH",
    )


def _check_tokenizer(
    tokenizer: TextTokenizer,
    result: MergedWeights,
    last: AdapterFiles,
    base: WeightIndex,
    *,
    given: bool,
    notices: list[str],
) -> int:
    """The tokenizer has one id for each row, apart from rows added to reach a multiple; returns the rows."""
    if last.record is not None and last.record.tokenizer_identity != tokenizer.identity:
        problem = "the tokenizer is not the one that the last adapter was trained with"
        if not given:
            raise UserError(last.directory, problem, mend="name the right one with --tokenizer")
        notices.append(f"warning: {problem}")
    embedding = embedding_name(result)
    if embedding is None:
        return len(tokenizer)
    rows, size = result.tensors[embedding].shape[0], len(tokenizer)
    source = "--tokenizer" if given else str(tokenizer.source or last.directory)
    if size > rows:
        grew = "the adapters bring no trained embeddings for the new pieces" if rows == _rows(base) else ""
        raise UserError(
            source,
            f"has {size} pieces and the merged embedding has {rows} rows" + (f": {grew}" if grew else ""),
            expected=f"{rows} pieces",
            mend="use the tokenizer that the adapter was trained with"
            + (", or train with --modules_to_save embed_tokens,lm_head" if grew else ""),
        )
    padded = rows == _rows(base) or any(rows == -(-size // multiple) * multiple for multiple in PADDED_TO)
    if size < rows and not padded:
        raise UserError(
            source,
            f"has {size} pieces and the merged embedding has {rows} rows, which is no rounded-up size",
            expected=f"{rows} pieces",
            mend="LLaMA and Alpaca tokenizers were mixed: use the one of the last adapter",
        )
    if size < rows:
        notices.append(f"the embedding has {rows} rows for {size} pieces; the last {rows - size} are padding")
    return rows


def _rows(index: WeightIndex) -> int | None:
    name = embedding_name(index)
    return None if name is None else index.tensors[name].shape[0]


def _config(
    base_folder: Path,
    base_config: Mapping[str, Any],
    result: MergedWeights,
    adapters: Sequence[AdapterFiles],
    rows: int,
    notices: list[str],
) -> tuple[dict[str, Any], Path]:
    """config.json of the result and the folder it came from.

    The last adapter that brings a config.json wins: this is how changed rotary settings travel with a long-context
    adapter. Rows, tying and dtype are always those of the weights; code named by ``auto_map`` does not travel.
    """
    folder = next((a.directory for a in reversed(adapters) if (a.directory / "config.json").is_file()), base_folder)
    config = dict(base_config) if folder == base_folder else read_config(folder)
    for name in SAME_SHAPE:
        if name in config and name in base_config and config[name] != base_config[name]:
            raise UserError(
                folder / "config.json", f"{name} is {config[name]!r}", expected=f"{base_config[name]!r}, as in the base"
            )
    if folder != base_folder:
        notices.append(f"the configuration comes from {folder}")
    if config.pop("auto_map", None):
        notices.append("auto_map was left out: code beside a checkpoint is never copied or run")
    config["vocab_size"] = rows
    if config.get("tie_word_embeddings") is None or bool(config["tie_word_embeddings"]) != result.tied:
        if bool(base_config.get("tie_word_embeddings")) and not result.tied:
            notices.append("the adapter's head differs from its embedding: the two are no longer tied")
        config["tie_word_embeddings"] = result.tied
    dtype = str(largest_dtype(result)).removeprefix("torch.")
    config["dtype" if "torch_dtype" not in config else "torch_dtype"] = dtype
    config.pop("_name_or_path", None)
    return config, folder


def largest_dtype(index: WeightIndex) -> torch.dtype:
    """The floating-point dtype that holds most of the bytes."""
    sizes: dict[torch.dtype, int] = {}
    for info in index.tensors.values():
        if info.dtype.is_floating_point:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _compare_special_ids(config: Mapping[str, Any], tokenizer: TextTokenizer, notices: list[str]) -> None:
    """Point out special ids in which the settings and the tokenizer differ (a fault of some converted checkpoints)."""
    for name, own in (("bos_token_id", tokenizer.bos_id), ("eos_token_id", tokenizer.eos_id)):
        said = config.get(name)
        allowed = said if isinstance(said, list) else [said]
        if said is not None and own is not None and own not in allowed:
            notices.append(f"warning: config.json says {name} {said} and the tokenizer has {own}")
