"""Tokenizer files through transformers: from a folder or the hub, its faults told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from hanlin.errors import UserError
from hanlin.vocab.metaspace import repaired_copy


def hub_file(name: str, file: str, revision: str | None, cache_dir: str | None) -> Path | None:
    """The local copy of one file of the hub repository ``name``, or None where it has none."""
    found = cached_file(
        name,
        file,
        revision=revision or "main",
        cache_dir=cache_dir,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def names_empty_tokens(folder: Path) -> bool:
    """Whether the configuration calls BOS, EOS or the unknown token "".

    An early third-party conversion of LLaMA did so, and copies of it are still in use. transformers 5.23 fails on it
    with a RecursionError.
    """
    config_file = folder / "tokenizer_config.json"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    except ValueError:
        return False  # transformers says what is wrong with the file
    return isinstance(config, dict) and any(config.get(f"{role}_token") == "" for role in ("bos", "eos", "unk"))


def hub_folder(name: str, place: str, revision: str | None, cache_dir: str | None) -> Path:
    """The local folder of a hub repository's tokenizer files; UserError at once when the hub does not give it.

    ``tokenization_*.py`` is read as text (:mod:`hanlin.vocab.native.recognise`), never run.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "tokenization_*.py"]
    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        lines = str(error.__cause__ or error).strip().splitlines()
        reason = lines[0][:160] if lines else type(error).__name__
        raise UserError(
            place,
            f"{name} is no folder here, and the hub does not give it ({reason})",
            expected="an existing folder or tokenizer.model file, or a hub id that can be reached",
        ) from error


def from_pretrained(
    path: str, place: str, *, kind: Any = AutoTokenizer, **where: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, as ``kind`` of transformers loads it; code that comes with it is never run.

    Raises UserError at ``place``.
    """
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **where)
    except Exception as error:  # every library below has its own classes; the user needs one line
        lines = str(error).strip().splitlines()
        raise UserError(
            place,
            f"no tokenizer can be loaded from {path} ({lines[0] if lines else type(error).__name__})",
            expected="an existing folder or tokenizer.model file, or a hub id that can be reached",
        ) from error


def from_folder(folder: Path, place: str, *, kind: Any = AutoTokenizer) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer in ``folder``, and whether its ``tokenizer.json`` had to be repaired (on a copy) to be read."""
    try:
        return from_pretrained(str(folder), place, kind=kind), False
    except UserError:
        with repaired_copy(folder) as copy:
            if copy is None:
                raise
            hf = from_pretrained(str(copy), place, kind=kind)
        hf.name_or_path = str(folder)
        return hf, True
