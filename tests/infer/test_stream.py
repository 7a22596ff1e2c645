"""Pieces of text from token ids: no half characters, no stop strings, nothing lost; and the thread behind a stream."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answering import tokenizer
from hanlin.infer.stream import REPLACEMENT, AnswerStream, TextStream

LETTERS = st.text(st.characters(codec="utf-8", exclude_characters=REPLACEMENT, exclude_categories=["Cs", "Cc"]))


def pieces_of(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


@settings(max_examples=150, deadline=None)
@given(LETTERS)
def test_pieces_join_to_the_text_and_none_is_half_a_character(text: str) -> None:
    ids = tokenizer().encode(text)
    pieces = pieces_of(TextStream(tokenizer().decode), ids)
    assert "".join(pieces) == tokenizer().decode(ids)
    assert REPLACEMENT not in "".join(pieces)


def test_a_character_of_four_byte_pieces_comes_whole() -> None:
    ids = tokenizer().encode("好😀")
    stream = TextStream(tokenizer().decode)
    pieces = [stream.push(token_id) for token_id in ids]
    assert len(ids) >= 7, "the test wants characters that are spelled in bytes"
    assert [piece for piece in pieces if piece] == ["好", "😀"]


def test_text_appears_as_soon_as_it_can() -> None:
    ids = tokenizer().encode("The answer is short")
    stream = TextStream(tokenizer().decode)
    pieces = [stream.push(token_id) for token_id in ids]
    assert all(pieces), "every piece of plain words can be shown at once"


def test_bytes_cut_off_at_the_end_are_left_out() -> None:
    ids = tokenizer().encode("月😀")
    assert "".join(pieces_of(TextStream(tokenizer().decode), ids[:-1])) == "月"


def test_bytes_that_never_become_text_do_not_hold_the_rest_back() -> None:
    bad = tokenizer().special_id("<0xFF>")
    words = tokenizer().encode("The answer")
    text = "".join(pieces_of(TextStream(tokenizer().decode), [bad] * 20 + words))
    assert text.endswith("The answer") and text.startswith(REPLACEMENT)


def test_special_tokens_are_never_shown() -> None:
    ids = [1, *tokenizer().encode("The answer"), 2, 1]
    assert "".join(pieces_of(TextStream(tokenizer().decode), ids)) == "The answer"


@settings(max_examples=150, deadline=None)
@given(st.text("ab\n", max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_where_the_first_begins(text: str, stops: list[str]) -> None:
    stream = TextStream(lambda ids: "".join(map(chr, ids)), stop=stops)
    pieces = []
    for character in text:
        pieces.append(stream.push(ord(character)))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    # Independent: the stop that is complete first ends the text, because nothing after it is generated.
    ends = [i for i in range(len(text) + 1) if any(text[:i].endswith(stop) for stop in stops)]
    seen = text[: ends[0]] if ends else text
    cut = min((seen.find(stop) for stop in stops if stop in seen), default=len(seen))
    assert "".join(pieces) == seen[:cut]


def test_a_continued_text_keeps_its_space() -> None:
    before, after = tokenizer().encode("The"), tokenizer().encode("answer")
    assert "".join(pieces_of(TextStream(tokenizer().decode), after)) == "answer"
    assert "".join(pieces_of(TextStream(tokenizer().decode, context=before), after)) == " answer"


def test_stream_gives_pieces_then_the_answer() -> None:
    def run(emit: object, cancelled: threading.Event) -> int:
        emit("a")  # type: ignore[operator]
        emit("b")  # type: ignore[operator]
        return 7

    stream = AnswerStream(run)
    with pytest.raises(RuntimeError):
        _ = stream.answer
    assert list(stream) == ["a", "b"]
    assert stream.answer == 7
    assert list(stream) == []


def test_an_error_while_answering_reaches_the_reader() -> None:
    def run(emit: object, cancelled: threading.Event) -> int:
        emit("a")  # type: ignore[operator]
        raise KeyError("broken")

    stream = AnswerStream(run)
    assert next(stream) == "a"
    with pytest.raises(KeyError, match="broken"):
        next(stream)


def test_close_stops_the_work() -> None:
    def run(emit: object, cancelled: threading.Event) -> str:
        while not cancelled.is_set():
            emit("x")  # type: ignore[operator]
            time.sleep(0.001)
        return "cancelled"

    stream = AnswerStream(run)
    assert next(stream) == "x"
    stream.close()
    assert stream.answer == "cancelled"
    assert list(stream) == []
