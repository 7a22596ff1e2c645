"""Properties of encoding and fitting, on random conversations and a byte-level tokenizer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from every_token import FIRST_BYTE, SPECIAL, EveryToken
from hanlin.template import CHAT_TEMPLATE, TEMPLATES, Renderer, resolve_renderer
from hanlin.tokens.encode import encode_conversation, encode_prompt
from hanlin.tokens.fit import fit
from hanlin.types import IGNORE_INDEX, Conversation, Encoded, Message, Place

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RENDERERS = {
    name: resolve_renderer(name, chat_template=CHATML, special=SPECIAL) for name in (*sorted(TEMPLATES), CHAT_TEMPLATE)
}
"""Of every entry of the catalog, and of a chat template in Jinja."""
TOKENIZER = EveryToken()
SINGLE_TURN = {name for name, template in TEMPLATES.items() if template.separator is None}
WITHOUT_SYSTEM = {name for name, template in TEMPLATES.items() if not template.has_system_slot}
STOPS_INSIDE = {
    name for name, template in TEMPLATES.items() if template.inner_suffix is None or template.inner_suffix
} | {CHAT_TEMPLATE}
"""Those of which every answer ends with a stop token, not the last one alone."""

LOOKALIKES = [*SPECIAL.all, "<eoa>", "[/INST]", "{user}", "{id:195}", "\n", "你"]
TEXTS = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(LOOKALIKES)).map("".join)).filter(
    lambda text: not any("\ud800" <= char <= "\udfff" for char in text)
)


@st.composite
def conversations(draw: st.DrawFn, name: str) -> Conversation:
    """Conversations that the template ``name`` has a place for."""
    messages = []
    if name not in WITHOUT_SYSTEM and draw(st.booleans()):
        messages.append(Message("system", draw(TEXTS)))
    for _ in range(draw(st.integers(1, 1 if name in SINGLE_TURN else 4))):
        messages.append(Message("user", draw(TEXTS)))
        weight = draw(st.sampled_from([None, None, 1.0, 0.0]))
        answer = draw(TEXTS.filter(bool).filter(lambda text: name != "qwen3" or "think>" not in text))
        messages.append(Message("assistant", answer, weight=weight))
    return Conversation(tuple(messages), Place("x.jsonl", line=1))


TRAIN_ON = st.sampled_from(["all", "last"])


def rewrites(renderer: Renderer, conversation: Conversation) -> bool:
    """Whether earlier turns stand in the row in another way than when their answers were written."""
    with_system = conversation.messages[0].role == "system" and conversation.messages[0].content
    return renderer.name == "qwen3" or (renderer.name == "mistral-v0.3" and bool(with_system))


def wanted(renderer: Renderer, conversation: Conversation, train_on: str) -> list[int]:
    """Indices of the answers that are trained."""
    answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    chosen = answers[-1:] if train_on == "last" or rewrites(renderer, conversation) else answers
    return [i for i in chosen if conversation.messages[i].weight != 0]


def target(renderer: Renderer, conversation: Conversation, answer: int) -> str:
    """An answer with what closes it, as text."""
    content = conversation.messages[answer].content
    if renderer.name == CHAT_TEMPLATE:
        return content + "<|im_end|>"
    template = TEMPLATES[renderer.name]
    is_last = answer == len(conversation.messages) - 1
    inner = template.suffix if template.inner_suffix is None else template.inner_suffix
    return content + (template.suffix if is_last else inner).replace("{eos}", "</s>")


def trained_ids(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE_INDEX]


def is_text(index: int) -> bool:
    return FIRST_BYTE <= index < FIRST_BYTE + 256


def stop_ids(renderer: Renderer) -> set[int]:
    return {TOKENIZER.special_id(stop) for stop in renderer.stop}


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(data=st.data(), train_on=TRAIN_ON)
@settings(max_examples=25, deadline=None)
def test_trained_ids_are_the_answers_and_their_stops(
    renderer: Renderer, data: st.DataObject, train_on: Literal["all", "last"]
) -> None:
    conversation = data.draw(conversations(renderer.name))
    encoded = encode_conversation(conversation, renderer, TOKENIZER, train_on=train_on)
    assert len(encoded.ids) == len(encoded.labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))
    texts = [target(renderer, conversation, answer) for answer in wanted(renderer, conversation, train_on)]
    assert TOKENIZER.decode(trained_ids(encoded)) == "".join(texts)
    assert all(is_text(i) or i in stop_ids(renderer) for i in trained_ids(encoded))
    assert len(encoded.turn_ends) == sum(message.role == "assistant" for message in conversation.messages)
    if wanted(renderer, conversation, "last"):
        assert encoded.labels[encoded.turn_ends[-1] - 1] in stop_ids(renderer)
    written = TOKENIZER.decode(encoded.ids)
    for message in conversation.messages:
        assert message.content in written


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_text_never_becomes_special(renderer: Renderer, data: st.DataObject) -> None:
    """A row has as many special tokens as the same row with harmless texts."""
    conversation = data.draw(conversations(renderer.name))
    harmless = [replace(message, content="x" if message.content else "") for message in conversation.messages]
    counts = [
        Counter(i for i in encode_conversation(row, renderer, TOKENIZER).ids if not is_text(i))
        for row in (conversation, replace(conversation, messages=tuple(harmless)))
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_every_prompt_is_the_start_of_training(renderer: Renderer, data: st.DataObject) -> None:
    conversation = data.draw(conversations(renderer.name))
    whole = encode_conversation(conversation, renderer, TOKENIZER)
    first = next(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
    answers = range(first, len(conversation.messages), 2)
    for answer in answers[-1:] if rewrites(renderer, conversation) else answers:
        question = Conversation(conversation.messages[:answer], conversation.place)
        prompt = encode_prompt(question, renderer, TOKENIZER)
        assert whole.ids[: len(prompt)] == prompt
        assert TOKENIZER.decode(whole.ids[len(prompt) :]).startswith(target(renderer, conversation, answer))


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(data=st.data(), train_on=TRAIN_ON, max_length=st.integers(2, 200))
@settings(max_examples=30, deadline=None)
def test_a_cut_row_keeps_a_stop_and_the_limit(
    renderer: Renderer, data: st.DataObject, train_on: Literal["all", "last"], max_length: int
) -> None:
    conversation = data.draw(conversations(renderer.name))
    encoded = encode_conversation(conversation, renderer, TOKENIZER, train_on=train_on)
    fitted = fit(encoded, max_length, "cut", prefix_ids=(TOKENIZER.special_id("<s>"),))
    if not wanted(renderer, conversation, train_on):
        assert fitted.encoded is None
        return
    row = fitted.encoded
    assert row is not None
    assert len(row.ids) == len(row.labels) <= max_length
    assert fitted.cut_tokens == len(encoded.ids) - len(row.ids)
    assert (fitted.reason is None) == (fitted.cut_tokens == 0) == (row == encoded)
    assert row.num_trained >= 1
    assert row.labels[0] == IGNORE_INDEX or encoded.labels[0] != IGNORE_INDEX
    if fitted.cut_tokens:
        if renderer.name in STOPS_INSIDE or wanted(renderer, conversation, "last"):
            assert row.labels[-1] in stop_ids(renderer)
        # nothing is invented: the row is a part of the given one, in order
        given_pairs = iter(zip(encoded.ids, encoded.labels, strict=True))
        assert all(pair in given_pairs for pair in zip(row.ids, row.labels, strict=True))
        lost = encoded.num_trained - row.num_trained
        assert (lost > 0) == ("answer" in str(fitted.reason) or "turns" in str(fitted.reason))
    if renderer.name in STOPS_INSIDE:
        assert all(row.ids[end - 1] in stop_ids(renderer) for end in row.turn_ends)
