"""Small tokenizers of exact sizes, to put beside tiny bases and adapters."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import sentencepiece

from hanlin.vocab.tokenizer import TextTokenizer
from tiny import tiny_adapter, tiny_llama

TEXT = ["the quick brown fox jumps over the lazy dog again and again", "hello world this is a text of some words"]


def _tokenizer(size: int) -> TextTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 10),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = TextTokenizer.from_sentencepiece(model.getvalue())
    assert len(tokenizer) == size
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> Mapping[int, TextTokenizer]:
    """Number of pieces to a tokenizer with that many."""
    return {size: _tokenizer(size) for size in (64, 75, 80, 81)}


@pytest.fixture
def make_base(tmp_path: Path, tokenizers: Mapping[int, TextTokenizer]) -> Callable[..., Path]:
    """tiny_llama with its tokenizer, in a folder of the given name."""

    def make(name: str = "base", *, vocab_size: int = 64, **settings: object) -> Path:
        folder = tiny_llama(tmp_path / name, vocab_size=vocab_size, **settings)  # type: ignore[arg-type]
        if vocab_size in tokenizers:
            tokenizers[vocab_size].save(folder)
        return folder

    return make


@pytest.fixture
def make_adapter(tmp_path: Path, tokenizers: Mapping[int, TextTokenizer]) -> Callable[..., Path]:
    """tiny_adapter with the tokenizer of its rows, in a folder of the given name."""

    def make(base: Path, name: str = "adapter", *, pieces: int | None = None, **settings: object) -> Path:
        folder = tiny_adapter(tmp_path / name, base, **settings)  # type: ignore[arg-type]
        pieces = pieces or settings.get("embedding_rows") or 64  # type: ignore[assignment]
        tokenizers[pieces].save(folder)
        return folder

    return make
