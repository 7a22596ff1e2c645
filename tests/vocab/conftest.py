"""Tokenizers that the tests share: LLaMA's own (from the shared data) and small ones trained here."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.vocab import spm
from hanlin.vocab.tokenizer import TextTokenizer
from hanlin.vocab.train import train_byte_level, train_sentencepiece
from vocab_texts import ENGLISH


@pytest.fixture(scope="session")
def published(shared_data: Path) -> Path:
    """Folder of the published Chinese tokenizers."""
    return shared_data / "chinese-llama"


@pytest.fixture(scope="session")
def llama(published: Path) -> TextTokenizer:
    """LLaMA's tokenizer: the first 32,000 pieces of the second generation's."""
    proto = spm.parse((published / "tokenizer-v2" / "tokenizer.model").read_bytes())
    del proto.pieces[32_000:]
    return TextTokenizer.from_sentencepiece(proto.SerializeToString())


@pytest.fixture(scope="session")
def english() -> TextTokenizer:
    """A small SentencePiece tokenizer without a Chinese character."""
    return train_sentencepiece(ENGLISH, 400)


@pytest.fixture(scope="session")
def english_bytes() -> TextTokenizer:
    """A small byte-level tokenizer, its special tokens at the end."""
    return train_byte_level(ENGLISH, 320, special_tokens=["<|im_start|>"])
