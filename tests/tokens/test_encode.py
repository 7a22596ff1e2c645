"""Joining of segments, what is trained, and the batch form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hanlin.errors import UserError
from hanlin.template import SpecialTokens, resolve_renderer
from hanlin.tokens.encode import (
    encode_conversation,
    encode_conversations,
    encode_prompt,
    encode_rows,
    encode_segments,
    join_segments,
)
from hanlin.types import IGNORE_INDEX, Conversation, Message, Place, Segment

SPECIAL = SpecialTokens("<s>", "</s>", ("<s>", "</s>"))


class Characters:
    """A tokenizer of one id a character, with a dummy prefix (id 3) like SentencePiece's, that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.ids = {"<s>": 1, "</s>": 2}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls.append(len(texts))
        return [[3, *(ord(char) + 10 for char in text)] for text in texts]

    def special_id(self, token: str) -> int:
        if token not in self.ids:
            raise UserError("tokenizer", f"{token} is not one token")
        return self.ids[token]


def ids_of(text: str) -> list[int]:
    return [3, *(ord(char) + 10 for char in text)]


def talk(*texts: str, weights: dict[int, float] | None = None, line: int = 1) -> Conversation:
    messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    for index, weight in (weights or {}).items():
        messages[index] = replace(messages[index], weight=weight)
    return Conversation(tuple(messages), Place("x.jsonl", line=line))


ALPACA = resolve_renderer("alpaca", chat_template=None, special=SPECIAL, system="")


def test_text_is_joined_up_to_special_tokens_and_answers() -> None:
    segments = [
        Segment("<s>", False, special=True),
        Segment("a", False),
        Segment("", False),
        Segment("b", False),
        Segment("c", True, message=1),
        Segment("d", True, message=1),
        Segment("e", True, message=2),
        Segment("</s>", True, special=True, message=2),
        Segment("</s>", True, special=True, message=2),
        Segment("f", False),
    ]
    assert [piece.text for piece in join_segments(segments)] == ["<s>", "ab", "cd", "e", "</s>", "</s>", "f"]
    encoded = encode_segments(segments, Characters())
    assert encoded.ids == [1, *ids_of("ab"), *ids_of("cd"), *ids_of("e"), 2, 2, *ids_of("f")]
    assert encoded.labels == [*[-100] * 4, *ids_of("cd"), *ids_of("e"), 2, 2, -100, -100]
    assert encoded.turn_ends == (7, 11)


def test_the_stop_is_what_ends_an_answer() -> None:
    """Special tokens of a thought or a tool call within it are not."""
    segments = [
        Segment("q", False),
        Segment("</s>", True, special=True, message=1),
        Segment("call", True, message=1),
        Segment("</s>", True, special=True, message=1),
        Segment("\n", True, message=1),
        Segment("<s>", True, special=True, message=1),
        Segment("q", False),
        Segment("answer", True, message=3),
        Segment("</s>", True, special=True, message=3),
        Segment("q", False),
        Segment("none", True, message=5),
    ]
    assert encode_segments(segments, Characters()).stop_lengths == (4, 1, 0)  # with the prefix that the line break gets


def trained(conversation: Conversation, train_on: str = "all") -> str:
    encoded = encode_conversation(conversation, ALPACA, Characters(), train_on=train_on)  # type: ignore[arg-type]
    return "".join(
        "|" if label == 2 else "" if label == 3 else chr(label - 10)
        for label in encoded.labels
        if label != IGNORE_INDEX
    )


def test_what_is_trained() -> None:
    texts = ("q", "one", "q", "two", "q", "three")
    assert trained(talk(*texts)) == "one|two|three|"
    assert trained(talk(*texts), "last") == "three|"
    assert trained(talk(*texts, weights={3: 0, 5: 1.0, 0: 0})) == "one|three|"
    assert trained(talk(*texts, weights={5: 0}), "last") == ""
    assert trained(talk("q", "")) == "|"


def test_ids_do_not_depend_on_what_is_trained() -> None:
    texts = ("q", "one", "q", "two", "q", "three")
    everything = encode_conversation(talk(*texts), ALPACA, Characters())
    for conversation, train_on in ((talk(*texts), "last"), (talk(*texts, weights={1: 0, 3: 0}), "all")):
        encoded = encode_conversation(conversation, ALPACA, Characters(), train_on=train_on)  # type: ignore[arg-type]
        assert encoded.ids == everything.ids
        assert encoded.turn_ends == everything.turn_ends
        assert encoded.num_trained == 7
    for end in everything.turn_ends:
        assert everything.ids[end - 1] == 2
    assert len(everything.turn_ends) == 3


def test_a_prompt_ends_where_the_answer_starts() -> None:
    encoded = encode_conversation(talk("q", "one", "q", "two"), ALPACA, Characters())
    prompt = encode_prompt(talk("q", "one", "q"), ALPACA, Characters())
    assert encoded.ids == [*prompt, *ids_of("two"), 2]
    assert encoded.labels[len(prompt) :] == [*ids_of("two"), 2]


@pytest.mark.parametrize(("index", "weight"), [(1, 0.5), (1, 2.0), (1, -1.0), (0, 1.0)])
def test_weights_that_cannot_be_kept_are_refused(index: int, weight: float) -> None:
    with pytest.raises(UserError, match=rf"x\.jsonl:1: messages\[{index}\]\.weight .* is {weight}"):
        encode_conversation(talk("q", "a", weights={index: weight}), ALPACA, Characters())


def test_an_answer_that_the_template_does_not_write_is_refused() -> None:
    source = "{% for m in messages %}{{ m.content }}{% if m.content %}{{ eos_token }}{% endif %}{% endfor %}"
    renderer = resolve_renderer(None, chat_template=source, special=SPECIAL)
    with pytest.raises(UserError, match=r"messages\[1\] is an answer"):
        encode_conversation(talk("q", ""), renderer, Characters())


def test_batches_give_the_same_with_fewer_calls() -> None:
    conversations = [talk(*("ab" * (i % 5)), "q", "answer", line=i) for i in range(25)]
    tokenizer = Characters()
    batched = list(encode_conversations(conversations, ALPACA, tokenizer, batch_size=10))
    assert len(tokenizer.calls) == 3
    assert batched == [encode_conversation(one, ALPACA, tokenizer) for one in conversations]


def test_one_bad_row_does_not_stop_the_others() -> None:
    conversations = [talk("q", "a"), talk("q", "a", "q", line=2), talk("q", "b")]
    rows = list(encode_rows(conversations, ALPACA, Characters(), batch_size=2))
    assert [row[0] for row in rows] == conversations
    assert isinstance(rows[1][1], UserError)
    assert rows[1][1].place == "x.jsonl:2"
    assert rows[2][1] == encode_conversation(conversations[2], ALPACA, Characters())
    with pytest.raises(UserError, match=r"x\.jsonl:2"):
        list(encode_conversations(conversations, ALPACA, Characters()))


def test_a_missing_special_token_is_a_users_mistake() -> None:
    other = resolve_renderer("alpaca", chat_template=None, special=SpecialTokens(None, "<|end|>"))
    with pytest.raises(UserError, match="is not one token"):
        encode_conversation(talk("q", "a"), other, Characters())
