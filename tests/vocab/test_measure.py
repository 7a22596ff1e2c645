"""Counts by hand."""

from __future__ import annotations

import json

import pytest

from hanlin.vocab.extend import extend_by_corpus
from hanlin.vocab.measure import describe, measure
from hanlin.vocab.script import script_of
from hanlin.vocab.tokenizer import TextTokenizer
from vocab_texts import CHINESE, ENGLISH


@pytest.mark.parametrize(
    ("char", "script"),
    [("中", "Han"), ("𠮷", "Han"), ("々", "Han"), ("é", "Latin"), ("Ａ", "Latin"), ("ж", "Cyrillic"), ("한", "Hangul"),
     ("あ", "Kana"), ("ｱ", "Kana"), ("7", "digits/punctuation"), ("，", "digits/punctuation"), ("ع", "other"),
     ("😀", "other"), ("\u3000", "space"), ("\n", "space")],
)  # fmt: skip
def test_scripts(char: str, script: str) -> None:
    assert script_of(char) == script


def test_tokens_per_character_by_script(english: TextTokenizer, english_bytes: TextTokenizer) -> None:
    # Neither tokenizer has a Han character: 3 byte tokens each; letters of one-letter pieces count 1 each.
    for tokenizer, prefix in ((english, 1.0), (english_bytes, 0.0)):
        counts = measure(tokenizer, [("a", "中国"), ("b", "")])
        assert counts.by_script() == {"Han": 3.0}
        assert (counts.num_texts, counts.num_characters, counts.num_bytes) == (2, 2, 6)
        assert counts.num_tokens == 6 + prefix and counts.shares.get("prefix", 0.0) == prefix
        assert counts.num_failures == 0


def test_shares_add_up_to_the_tokens(english: TextTokenizer, english_bytes: TextTokenizer) -> None:
    extended = extend_by_corpus(english, CHINESE, 100).tokenizer
    texts = [("x", text) for text in (*ENGLISH[:30], *CHINESE[:30], "  two  spaces\n", "日本語かな русский 12.5 😀")]
    for tokenizer in (english, extended, english_bytes):
        counts = measure(tokenizer, texts)
        assert sum(counts.shares.values()) == pytest.approx(counts.num_tokens)
        assert sum(counts.characters.values()) == counts.num_characters == sum(len(text) for _, text in texts)
    assert measure(extended, texts).by_script()["Han"] < 1.5 < 2.5 < measure(english, texts).by_script()["Han"]


def test_a_text_that_does_not_come_back_is_listed(english: TextTokenizer) -> None:
    counts = measure(english, [("corpus.txt:1", "good"), ("corpus.txt:2", "a\u2581b")])
    assert counts.num_failures == 1
    failure = counts.failures[0]
    assert (failure.place, failure.text, failure.decoded) == ("corpus.txt:2", "a\u2581b", "a b")
    json.dumps(counts.as_dict())


def test_description(english: TextTokenizer, english_bytes: TextTokenizer) -> None:
    vocabulary = describe(english)
    assert vocabulary.num_tokens == 400 and vocabulary.special == {"<s>": 1, "</s>": 2}
    assert vocabulary.num_by_script["bytes"] == 256 and vocabulary.duplicates == ()
    assert sum(vocabulary.num_by_script.values()) == 400
    assert describe(english_bytes).num_by_script["bytes"] == 256


def test_pieces_out_of_reach_are_found(llama: TextTokenizer) -> None:
    from hanlin.vocab.extend import extend_by_model
    from hanlin.vocab.train import train_sentencepiece

    # Score 0 lets the Latin pieces of another model win over LLaMA's own merges, which then can no longer happen.
    other = train_sentencepiece(ENGLISH, 400)
    assert other.sentencepiece_model is not None
    extended = extend_by_model(llama, other.sentencepiece_model).tokenizer
    for piece in describe(extended).unreachable[:20]:
        assert extended.encode_piece(piece) != [extended.special_id(piece)]
    assert describe(llama).unreachable == ()
