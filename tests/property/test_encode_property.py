"""Properties of encoding and fitting, on random conversations and a byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.template import Renderer, SpecialTokens, resolve_renderer
from hanlin.tokens.encode import encode_conversation, encode_prompt
from hanlin.tokens.fit import fit
from hanlin.types import IGNORE_INDEX, Conversation, Encoded, Message, Place

SPECIAL = SpecialTokens("<s>", "</s>", ("<s>", "</s>", "<|im_start|>", "<|im_end|>"))
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RENDERERS = {
    name or "chatml": resolve_renderer(name, chat_template=CHATML, special=SPECIAL)
    for name in ("alpaca", "llama2-zh", None)
}


class Bytes:
    """Ids 0 to 255 are bytes; special tokens follow."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def special_id(self, token: str) -> int:
        return 256 + SPECIAL.all.index(token)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(bytes([i]) if i < 256 else SPECIAL.all[i - 256].encode() for i in ids).decode()


TOKENIZER = Bytes()
TEXTS = st.one_of(
    st.text(max_size=20), st.lists(st.sampled_from([*SPECIAL.all, "[/INST]", "{user}", "\n", "你"])).map("".join)
).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = []
    if draw(st.booleans()):
        messages.append(Message("system", draw(TEXTS)))
    for _ in range(draw(st.integers(1, 4))):
        messages.append(Message("user", draw(TEXTS)))
        weight = draw(st.sampled_from([None, None, 1.0, 0.0]))
        messages.append(Message("assistant", draw(TEXTS.filter(bool)), weight=weight))
    return Conversation(tuple(messages), Place("x.jsonl", line=1))


def wanted(conversation: Conversation, train_on: str) -> list[str]:
    answers = [message for message in conversation.messages if message.role == "assistant"]
    chosen = answers[-1:] if train_on == "last" else answers
    return [answer.content for answer in chosen if answer.weight != 0]


def trained_ids(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE_INDEX]


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(conversation=conversations(), train_on=st.sampled_from(["all", "last"]))
@settings(max_examples=60, deadline=None)
def test_trained_ids_are_the_answers_and_their_stops(
    renderer: Renderer, conversation: Conversation, train_on: Literal["all", "last"]
) -> None:
    encoded = encode_conversation(conversation, renderer, TOKENIZER, train_on=train_on)
    assert len(encoded.ids) == len(encoded.labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))
    texts = [text + renderer.stop[0] for text in wanted(conversation, train_on)]
    assert TOKENIZER.decode(trained_ids(encoded)) == "".join(texts)
    assert sum(i >= 256 for i in trained_ids(encoded)) == len(texts)
    assert len(encoded.turn_ends) == sum(message.role == "assistant" for message in conversation.messages)
    written = TOKENIZER.decode(encoded.ids)
    for message in conversation.messages:
        assert message.content in written


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(conversation=conversations())
@settings(max_examples=40, deadline=None)
def test_every_prompt_is_the_start_of_training(renderer: Renderer, conversation: Conversation) -> None:
    whole = encode_conversation(conversation, renderer, TOKENIZER)
    first = next(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
    for answer in range(first, len(conversation.messages), 2):
        question = Conversation(conversation.messages[:answer], conversation.place)
        prompt = encode_prompt(question, renderer, TOKENIZER)
        assert whole.ids[: len(prompt)] == prompt
        target = [*conversation.messages[answer].content.encode(), TOKENIZER.special_id(renderer.stop[0])]
        assert whole.ids[len(prompt) : len(prompt) + len(target)] == target


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(conversation=conversations(), train_on=st.sampled_from(["all", "last"]), max_length=st.integers(2, 200))
@settings(max_examples=80, deadline=None)
def test_a_cut_row_keeps_a_stop_and_the_limit(
    renderer: Renderer, conversation: Conversation, train_on: Literal["all", "last"], max_length: int
) -> None:
    encoded = encode_conversation(conversation, renderer, TOKENIZER, train_on=train_on)
    fitted = fit(encoded, max_length, "cut", bos_id=256)
    if not wanted(conversation, train_on):
        assert fitted.encoded is None
        return
    row = fitted.encoded
    assert row is not None
    assert len(row.ids) == len(row.labels) <= max_length
    assert fitted.cut_tokens == len(encoded.ids) - len(row.ids)
    assert (fitted.reason is None) == (fitted.cut_tokens == 0) == (row == encoded)
    assert row.num_trained >= 1
    assert row.labels[0] == IGNORE_INDEX
    if fitted.cut_tokens:
        assert row.labels[-1] == TOKENIZER.special_id(renderer.stop[0])
        # nothing is invented: the row is a part of the given one, in order
        given_pairs = iter(zip(encoded.ids, encoded.labels, strict=True))
        assert all(pair in given_pairs for pair in zip(row.ids, row.labels, strict=True))
        lost = encoded.num_trained - row.num_trained
        assert (lost > 0) == ("answer" in str(fitted.reason) or "turns" in str(fitted.reason))
    assert all(row.ids[end - 1] == TOKENIZER.special_id(renderer.stop[0]) for end in row.turn_ends)
