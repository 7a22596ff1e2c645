"""Extending a byte-level tokenizer: old ids, old merges first, new ids behind the special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import Qwen2Tokenizer

from hanlin.errors import UserError
from hanlin.vocab.backend import bytes_of, merge_pairs
from hanlin.vocab.byte_level import extend_by_tokenizer, extend_bytes_by_corpus, extend_bytes_by_pad
from hanlin.vocab.spelling import spell_new_pieces
from hanlin.vocab.tokenizer import TextTokenizer
from hanlin.vocab.train import train_byte_level
from vocab_texts import CHINESE, ENGLISH


def merges_of(tokenizer: TextTokenizer) -> list[tuple[str, str]]:
    return merge_pairs(json.loads(tokenizer.hf.backend_tokenizer.to_str())["model"])


def test_by_a_corpus(english_bytes: TextTokenizer, tmp_path: Path) -> None:
    old = english_bytes
    extension = extend_bytes_by_corpus(old, CHINESE, 100, pad_token="<pad>")
    new = extension.tokenizer
    assert new.extends(old) and len(new) == len(old) + 101
    assert (new.eos_id, new.special_id("<|im_start|>")) == (old.eos_id, old.special_id("<|im_start|>"))
    assert new.pad_id == len(new) - 1
    assert merges_of(new)[: len(merges_of(old))] == merges_of(old), "the old merges come first"
    assert new.encode_batch(ENGLISH) == old.encode_batch(ENGLISH)
    before, after = (sum(map(len, tokenizer.encode_batch(CHINESE))) for tokenizer in (old, new))
    assert after < before / 4
    for text in (*CHINESE, *ENGLISH[:20], "<|im_start|>😀𠮷"):
        assert new.decode(old.encode(text)) == text == new.decode(new.encode(text))
    new.save(tmp_path)
    again = TextTokenizer.load(str(tmp_path))
    assert again.identity == new.identity and again.encode_batch(CHINESE) == new.encode_batch(CHINESE)


def test_every_learned_token_can_occur_and_is_spelled_by_its_bytes(english_bytes: TextTokenizer) -> None:
    new = extend_bytes_by_corpus(english_bytes, CHINESE, 100, pad_token="<pad>").tokenizer
    spelling = spell_new_pieces(english_bytes, new)
    for index in range(len(english_bytes), len(new) - 1):
        piece = new.pieces()[index]
        assert new.encode_piece(piece) == [index]
        assert b"".join(map(english_bytes.token_bytes, spelling[index])) == bytes_of(piece)
        assert max(spelling[index]) < len(english_bytes)
    assert spelling[-1] == []


def test_by_another_tokenizer(english_bytes: TextTokenizer) -> None:
    other = train_byte_level(CHINESE, 400)
    extension = extend_by_tokenizer(english_bytes, other)
    new = extension.tokenizer
    assert new.extends(english_bytes) and set(other.pieces()[:-1]) <= set(new.pieces())
    assert len(extension.added) + len(extension.duplicates) == len(merges_of(other))
    assert sum(map(len, new.encode_batch(CHINESE))) < sum(map(len, english_bytes.encode_batch(CHINESE))) / 3
    assert [new.decode(ids) for ids in new.encode_batch(CHINESE)] == CHINESE


def test_a_class_of_transformers_that_rebuilds_its_backend(english_bytes: TextTokenizer) -> None:
    """Qwen2Tokenizer makes its own backend from vocabulary and merges; ids behind its end-of-text must not move."""
    vocabulary = {piece: index for index, piece in enumerate(english_bytes.pieces()[:318])}
    old = TextTokenizer(Qwen2Tokenizer(vocab=vocabulary, merges=merges_of(english_bytes)))
    assert old.eos_id == 318
    new = extend_bytes_by_corpus(old, CHINESE, 30).tokenizer
    assert type(new.hf) is Qwen2Tokenizer
    assert new.extends(old) and new.eos_id == 318 and len(new) == 349
    assert new.encode_piece(new.pieces()[330]) == [330]


def test_pad_alone(english_bytes: TextTokenizer) -> None:
    added = extend_bytes_by_pad(english_bytes, "<pad>")
    assert added.added == ("<pad>",) and added.tokenizer.pad_id == len(english_bytes)
    declared = extend_bytes_by_pad(english_bytes, "<|im_start|>")
    assert declared.added == () and declared.tokenizer.pad_id == english_bytes.special_id("<|im_start|>")


def test_kinds_do_not_mix_and_no_text_is_said(english: TextTokenizer, english_bytes: TextTokenizer) -> None:
    with pytest.raises(UserError, match="--pieces_from: is not a byte-level BPE"):
        extend_by_tokenizer(english_bytes, english)
    with pytest.raises(UserError, match="holds no text"):
        extend_bytes_by_corpus(english_bytes, [], 10)
    assert extend_bytes_by_corpus(english_bytes, ["学"], 10).missing == 10
