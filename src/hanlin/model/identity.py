"""Who a set of weights is: content hashes, and the record ``hanlin.json`` beside everything that is saved.

File hashes change with the version of the library that wrote the file; a hash over names, dtypes, shapes and bytes does
not, and it is the same for one checkpoint in one file, in shards, as safetensors and as .bin.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from hanlin.errors import UserError
from hanlin.files import write_json
from hanlin.model.weights import WeightIndex

RECORD_FILE = "hanlin.json"

_CHUNK = 64 * 2**20  # bytes hashed at once
_NOT_WEIGHTS = (".rotary_emb.inv_freq",)
"""Constants that checkpoints of 2023 carried and that today's saving leaves out; they do not change who a model is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an adapter or a model was made from. Identities are hex SHA-256 over contents."""

    kind: Literal["adapter", "model"]
    stage: Literal["base", "pt", "sft", "merge"]
    base_model: str | None
    """Path or hub id of the base, as it was given."""
    base_identity: str | None
    """``weights_identity`` of the base."""
    tokenizer_identity: str
    template: str | None
    system: str | None
    """System prompt of the template; None means the template's own."""
    chain: tuple[str, ...]
    """``weights_identity`` of each adapter that is merged into the base, in order."""
    base_vocab_rows: int | None
    """Rows of the base's embedding before this stage."""
    hanlin_version: str
    base_hub: Literal["huggingface", "modelscope"] | None = None
    """Hub that ``base_model`` is an id of; None for a folder, and in records older than this field."""
    base_revision: str | None = None
    """Commit of the base on that hub."""
    base_variant: str | None = None
    """Family of 2023 that the base was read as, where its config.json does not tell."""
    stop: tuple[str, ...] = ()
    """Tokens at which training taught answers to end, by name, those of the template first."""


def read_record(directory: Path | str) -> Record | None:
    """The record in ``directory``, or None when there is none; raises UserError when it is not valid."""
    file = Path(directory) / RECORD_FILE
    if not file.is_file():
        return None
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(file, f"is not valid JSON ({error})", mend="restore it from the run that wrote it") from error
    if not isinstance(values, dict):
        raise UserError(file, f"holds {type(values).__name__}", expected="an object")
    hints = typing.get_type_hints(Record)
    found: dict[str, Any] = {}
    for field in fields(Record):
        if field.name not in values:
            if field.default is not MISSING:  # a field that older records do not have
                continue
            raise UserError(file, f"has no field {field.name!r}", mend="restore it from the run that wrote it")
        value = values[field.name]
        if isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hints[field.name]):
            raise UserError(file, f"{field.name} is {value!r}", expected=str(hints[field.name]))
        found[field.name] = value
    return Record(**found)


def write_record(directory: Path | str, record: Record) -> None:
    """Write ``record`` into ``directory``, aside and renamed; raises UserError when it cannot be written."""
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / RECORD_FILE, asdict(record), sort_keys=False)
    except OSError as error:
        raise UserError(directory / RECORD_FILE, f"cannot be written ({error.strerror})") from error


def tensor_hash(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of the bytes of ``tensor`` in row-major order, read in pieces."""
    digest = hashlib.sha256()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    step = max(1, _CHUNK // max(1, flat.element_size()))
    for start in range(0, flat.numel(), step):
        digest.update(flat[start : start + step].view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_identity(index: WeightIndex) -> str:
    """SHA-256 (hex) over the sorted (name, dtype, shape, hash of the bytes) of all tensors; reads every tensor once."""
    digest = hashlib.sha256()
    for name in sorted(index.tensors):
        if name.endswith(_NOT_WEIGHTS):
            continue
        info = index.tensors[name]
        dtype = str(info.dtype).removeprefix("torch.")
        line = [name, dtype, list(info.shape), tensor_hash(index.load(name))]
        digest.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has the type of a field of Record."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    return type(value) is hint
