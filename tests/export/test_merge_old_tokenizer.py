"""A base whose tokenizer is of 2023: the merged folder holds the tokenizer that plain transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer

from hanlin.export.merge import merge_checkpoint
from old_tokenizers import old_tokenizer
from tiny import tiny_adapter, tiny_llama


def test_a_converted_tokenizer_is_saved_and_not_copied(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", vocab_size=700)
    old = old_tokenizer(tmp_path / "old", "internlm")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(old / name, base / name)
    adapter = tiny_adapter(tmp_path / "adapter", base)
    merge_checkpoint(base, [adapter], tmp_path / "out", proof="weights")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(old / "tokenizer.model"))
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("先生在学校里读书。", "  two spaces", "river 龘"):
        assert merged(text).input_ids == [1, *reference.encode(text)]
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (old / "tokenizer.model").read_bytes()
