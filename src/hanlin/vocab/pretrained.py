"""Tokenizer files of a folder through transformers, their faults told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from hanlin.errors import UserError
from hanlin.vocab.metaspace import repaired_copy


def names_empty_tokens(folder: Path) -> bool:
    """Whether the configuration calls BOS, EOS or the unknown token "".

    An early third-party conversion of LLaMA did so, and copies of it are still in use. transformers 5.23 fails on it
    with a RecursionError.
    """
    config = _json_object(folder / "tokenizer_config.json")
    return any(config.get(f"{role}_token") == "" for role in ("bos", "eos", "unk"))


def _json_object(file: Path) -> dict[str, Any]:
    """The object in a file, {} where there is none: transformers says what is wrong with it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def from_pretrained(folder: Path, place: str, *, kind: Any = AutoTokenizer) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder as ``kind`` of transformers loads it; code that comes with it is never run.

    Raises UserError at ``place``.
    """
    settings: dict[str, Any] = {}
    values = _json_object(folder / "config.json")
    if kind is AutoTokenizer and values.get("model_type") not in CONFIG_MAPPING and values:
        # What AutoTokenizer itself takes for a model of 2023, after a warning about a model that nobody asked for.
        settings["config"] = PreTrainedConfig.from_dict(values)
    try:
        return kind.from_pretrained(str(folder), trust_remote_code=False, **settings)
    except Exception as error:  # every library below has its own classes; the user needs one line
        lines = str(error).strip().splitlines()
        raise UserError(
            place,
            f"no tokenizer can be loaded from {folder} ({lines[0] if lines else type(error).__name__})",
            expected="the files of a tokenizer",
        ) from error


def from_folder(folder: Path, place: str, *, kind: Any = AutoTokenizer) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer in ``folder``, and whether its ``tokenizer.json`` had to be repaired (on a copy) to be read."""
    try:
        return from_pretrained(folder, place, kind=kind), False
    except UserError:
        with repaired_copy(folder) as copy:
            if copy is None:
                raise
            hf = from_pretrained(copy, place, kind=kind)
        hf.name_or_path = str(folder)
        return hf, True
