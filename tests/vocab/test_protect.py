"""Marks of a template that the tokenizer calls ordinary pieces are kept out of text."""

from __future__ import annotations

import pytest

from hanlin.errors import UserError
from hanlin.vocab.tokenizer import TextTokenizer

TEXT = "the fox saw the dog, the end"


@pytest.mark.parametrize("kind", ["english", "english_bytes"])
def test_no_text_becomes_a_protected_token(kind: str, request: pytest.FixtureRequest) -> None:
    given: TextTokenizer = request.getfixturevalue(kind)
    tokenizer = TextTokenizer(given.hf, model=given.sentencepiece_model)
    before = tokenizer.encode(TEXT)
    longest = max(set(before), key=lambda index: len(tokenizer.token_bytes(index)))
    identity = tokenizer.identity
    tokenizer.protect([tokenizer.pieces()[longest]])
    assert longest in before
    assert longest in tokenizer.special_ids
    for texts in (tokenizer.encode(TEXT), *tokenizer.encode_batch([TEXT, TEXT])):
        assert longest not in texts
        assert tokenizer.decode(texts) == TEXT
    assert tokenizer.identity == identity, "the vocabulary is the same"
    assert given.encode(TEXT) == before


def test_bytes_of_text_cannot_be_protected(english: TextTokenizer) -> None:
    tokenizer = TextTokenizer(english.hf, model=english.sentencepiece_model)
    tokenizer.protect(["<0xC0>"])  # no text has this byte
    assert tokenizer.decode(tokenizer.encode("é 龘")) == "é 龘"
    with pytest.raises(UserError, match="<0x41> is a byte of text"):
        tokenizer.protect(["<0x41>"])
    with pytest.raises(UserError, match="not one token"):
        tokenizer.protect(["<eoa>"])
