"""A tokenizer as files that every tool reads, each written aside and renamed.

``save_pretrained`` alone (transformers 5.23) drops ``tokenizer.model`` and, where only that is read back, the BOS rule.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hanlin.errors import UserError
from hanlin.files import sync, write_failure, write_json
from hanlin.vocab.native import QWEN_FILE
from hanlin.vocab.tokenizer import MODEL_FILE, RECORD_FILE, TextTokenizer


def save_tokenizer(tokenizer: TextTokenizer, directory: Path) -> None:
    """Write transformers' files, ``tokenizer.model`` as it was read, and the BOS rule. Raises UserError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=".tokenizer-", dir=directory))
    except OSError as error:
        raise UserError(directory, f"cannot write the tokenizer: {error.strerror or error}") from error
    try:
        tokenizer.hf.save_pretrained(aside)
        _complete_files(tokenizer, aside)
        for path in sorted(aside.iterdir()):
            sync(path)
            path.replace(directory / path.name)
    except Exception as error:  # the tokenizers library tells of a full disk by a bare Exception
        reason = write_failure(error)
        if reason is None:
            raise
        raise UserError(directory, f"cannot write the tokenizer: {reason}", mend="free some space") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _complete_files(tokenizer: TextTokenizer, folder: Path) -> None:
    config_file = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    for machine_bound in ("name_or_path", "is_local", "local_files_only", "vocab_file"):
        config.pop(machine_bound, None)
    if tokenizer.sentencepiece_model is not None:
        (folder / MODEL_FILE).write_bytes(tokenizer.sentencepiece_model)
    record: dict[str, Any] = {"num_tokens": len(tokenizer), "identity": tokenizer.identity}
    if tokenizer.sentencepiece_model is not None and len(tokenizer.prefix_ids) < 2:
        config["add_bos_token"] = bool(tokenizer.prefix_ids)
        config["add_eos_token"] = bool(getattr(tokenizer.hf, "add_eos_token", False))
    elif tokenizer.prefix_ids != tokenizer.own_prefix():
        pieces = tokenizer.pieces()
        record["prefix"] = [pieces[index] for index in tokenizer.prefix_ids]
    if tokenizer.tiktoken_file is not None:
        (folder / QWEN_FILE).write_bytes(tokenizer.tiktoken_file)
    if tokenizer.pad_to_multiple_of is not None:
        record["pad_to_multiple_of"] = tokenizer.pad_to_multiple_of
    if len(record) > 2:
        write_json(folder / RECORD_FILE, record)
    write_json(config_file, config)
    # transformers 5 keeps these in tokenizer_config.json; tools of 2023 read the map.
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {name: str(getattr(tokenizer.hf, name)) for name in names if getattr(tokenizer.hf, name)}
    write_json(folder / "special_tokens_map.json", tokens)
