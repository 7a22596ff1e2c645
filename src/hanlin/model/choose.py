"""From ``--model``, ``--model_type`` and the hub settings to one model: which entry, which hub, which id on it.

Both together are refused, as the older tool refused them. ``--model_type`` is first an id of the catalog; else, as in
pre-training tools of 2023, a model type of transformers such as llama, and then the model starts from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hanlin.config.environment import HubEnvironment, read_hub_environment
from hanlin.config.hub import HubConfig
from hanlin.errors import UserError
from hanlin.model.catalog import find_entry, unknown_id
from hanlin.model.entry import HUB_NAMES, QKV_GROUP, Entry, Hub
from hanlin.model.hub import Access
from hanlin.model.register import with_registered
from hanlin.names import is_hub_id

if TYPE_CHECKING:
    from hanlin.model.identity import Record  # it needs torch, which takes seconds to import

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a run starts from."""

    model: str | None
    """Folder, or id on the hub of ``access``; None from scratch, or where an adapter names its base."""
    scratch: str | None = None
    """Model type of transformers to train from scratch."""
    entry: Entry | None = None
    access: Access
    notices: tuple[str, ...] = ()

    def dtype(self, asked: Dtype) -> Dtype:
        """``asked``, or the one dtype that the entry works in. Raises UserError when they differ."""
        forced = self.entry.dtype if self.entry else None
        if forced is None or asked == forced:
            return asked
        if asked != "auto":
            assert self.entry is not None
            raise UserError("--dtype", f"is {asked}, and {self.entry.id} works in {forced} only", mend="leave it out")
        return forced


def choose_model(
    model: str | None,
    model_type: str | None,
    hub: HubConfig,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    may_start_from_scratch: bool = False,
    environment: HubEnvironment | None = None,
) -> Choice:
    """The model that the settings name; asks no network. Raises UserError."""
    environment = environment or read_hub_environment()
    catalog = with_registered(hub.register)
    if model is not None and model_type is not None:
        raise UserError(
            "--model_type",
            "and --model (or --model_id_or_path) are both given",
            expected="one of them",
            mend="a folder needs no type, its config.json says it",
        )
    if model_type is not None:
        named = _by_id(model_type, catalog)
        if named is not None:
            return _entry_choice(named, "--model_type", hub, environment, revision, cache_dir)
        if may_start_from_scratch and _is_transformers_type(model_type):
            return Choice(model=None, scratch=model_type, access=_access(None, hub, environment, revision, cache_dir))
        raise unknown_id(model_type, "--model_type", catalog)
    plain = _access(None, hub, environment, revision, cache_dir)
    if model is None or Path(model).expanduser().exists() or not is_hub_id(model):
        return Choice(model=model, access=plain)
    same = _by_id(model, catalog)
    if same is not None:
        raise UserError(
            "--model", f"{model} is no folder here, but an id of the catalog", mend=f"use --model_type {same.id}"
        )
    entry = find_entry(model, catalog)
    if entry is None:
        return Choice(model=model, access=plain)
    return _entry_choice(entry, "--model", hub, environment, revision, cache_dir, named=model)


def recorded_access(record: Record, access: Access, *, chosen_hub: bool = False) -> Access:
    """``access`` to the base that ``record`` names: at the recorded hub and commit where the user chose none."""
    if record.base_hub is None or (chosen_hub and record.base_hub != access.hub):
        return access
    return replace(access, hub=record.base_hub, revision=access.revision or record.base_revision)


def _by_id(name: str, catalog: Mapping[str, Entry]) -> Entry | None:
    """The entry called ``name``; capitals do not matter unless two entries differ in them alone."""
    return catalog.get(name) or next((entry for id, entry in catalog.items() if id.lower() == name.lower()), None)


def _entry_choice(
    entry: Entry,
    place: str,
    hub: HubConfig,
    environment: HubEnvironment,
    revision: str | None,
    cache_dir: str | None,
    *,
    named: str | None = None,
) -> Choice:
    if entry.refusal:
        plain = entry.id.rsplit("-int", 1)[0]
        mend = f"use {plain}" if entry.quantization and plain != entry.id and not entry.refused else ""
        raise UserError(place, f"{entry.id} {entry.refusal}", mend=mend)
    access = _access(entry, hub, environment, revision, cache_dir)
    notices = [_summary(entry, access)]
    if entry.path:
        if not Path(entry.path).is_dir():
            # Passed on, it would be taken for an id of a hub: another model than the one meant, of the same name.
            raise UserError(
                place,
                f"{entry.id} is to be in {entry.path}, which is no folder here",
                mend="correct its path in the file of --register (relative to that file)",
            )
        return Choice(model=entry.path, entry=entry, access=access, notices=tuple(notices))
    name = entry.id_on(access.hub)
    assert name is not None, "the hub was chosen among those that have the model"
    if named is not None and named.strip("/").lower() != name.lower():
        notices.append(f"{named} is called {name} on {HUB_NAMES[access.hub]}, where it is taken from")
    return Choice(model=name, entry=entry, access=access, notices=tuple(notices))


def _summary(entry: Entry, access: Access) -> str:
    where = entry.path or f"{entry.id_on(access.hub)} on {HUB_NAMES[access.hub]}"
    targets = ",".join(entry.qkv) if entry.lora_target_modules == (QKV_GROUP,) else ",".join(entry.lora_target_modules)
    return f"Model {entry.id}: {where}, template {entry.template or 'of its tokenizer'}, LoRA on {targets} by default"


def _access(
    entry: Entry | None, hub: HubConfig, environment: HubEnvironment, revision: str | None, cache_dir: str | None
) -> Access:
    return Access(
        hub=_hub(entry, hub, environment),
        revision=revision or (entry.revision if entry else None),
        cache_dir=cache_dir,
        offline=hub.offline or environment.offline,
        ignore_file_pattern=entry.ignore_file_pattern if entry else (),
    )


def _hub(entry: Entry | None, hub: HubConfig, environment: HubEnvironment) -> Hub:
    """The flag, else the environment, else the one hub that has the model, else Hugging Face."""
    asked = hub.use_hf if hub.use_hf is not None else environment.use_hf
    if asked is not None:
        wanted: Hub = "huggingface" if asked else "modelscope"
        if entry is not None and not entry.path and entry.id_on(wanted) is None:
            place = "--use_hf" if hub.use_hf is not None else "USE_HF"
            raise UserError(
                place,
                f"asks for {HUB_NAMES[wanted]}, and {entry.id} has no known id there",
                mend="leave it out, or name a folder or hub id with --model",
            )
        return wanted
    if entry is not None and entry.huggingface is None and entry.modelscope is not None:
        return "modelscope"
    return "huggingface"


def _is_transformers_type(name: str) -> bool:
    from transformers import CONFIG_MAPPING

    return name in CONFIG_MAPPING
