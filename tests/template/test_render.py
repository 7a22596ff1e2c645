"""Named templates: what they refuse, and how a name is resolved."""

from __future__ import annotations

import pytest

from hanlin.errors import UserError
from hanlin.template import TEMPLATES, SpecialTokens, TemplateRenderer, resolve_renderer, template_names
from hanlin.types import Conversation, Message, Place, Role, Segment

LLAMA = SpecialTokens("<s>", "</s>", ("<s>", "</s>"))
CHAT = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"


def conversation(*messages: tuple[Role, str]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in messages), Place("chats.jsonl", line=3))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_stops_after_every_answer(name: str) -> None:
    """Of every entry of the catalog: the only trained text is answers, and each ends with the stop."""
    renderer = resolve_renderer(name, chat_template=None, special=LLAMA)
    assert renderer.name == name
    talk = conversation(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))
    segments = renderer.render(talk)
    assert renderer.stop == ("</s>",)
    assert [segment for segment in segments if segment.trained] == [
        Segment("two", trained=True, message=1),
        Segment("</s>", trained=True, special=True, message=1),
        Segment("four", trained=True, message=3),
        Segment("</s>", trained=True, special=True, message=3),
    ]
    assert renderer.system
    assert renderer.system in "".join(segment.text for segment in segments)
    prompt = renderer.render(Conversation(talk.messages[:-1], talk.place), add_generation_prompt=True)
    assert segments[: len(prompt)] == prompt
    assert segments[len(prompt)].text == "four"
    assert TEMPLATES[name].source


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_system_texts(name: str) -> None:
    talk = conversation(("user", "q"), ("assistant", "a"))
    texts = {}
    for system in (None, "", "be kind {user}"):
        renderer = resolve_renderer(name, chat_template=None, special=LLAMA, system=system)
        texts[system] = "".join(segment.text for segment in renderer.render(talk))
        own = conversation(("system", "mine"), *((m.role, m.content) for m in talk.messages))
        assert texts[system].replace(renderer.system or "\0", "mine") == "".join(
            s.text for s in renderer.render(own)
        ) or (not system)
    assert "be kind {user}" in texts["be kind {user}"]
    assert texts[""].startswith({"alpaca": "<s>### Instruction:\nq", "llama2-zh": "<s>[INST] q [/INST]a"}[name])


def test_a_tokenizer_without_bos_starts_without_it() -> None:
    renderer = TemplateRenderer(TEMPLATES["alpaca"], SpecialTokens(None, "<|endoftext|>"))
    segments = renderer.render(conversation(("user", "q"), ("assistant", "a")))
    assert not segments[0].special
    assert segments[-1].text == "<|endoftext|>"


def test_a_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(UserError, match=r"--template.*EOS"):
        resolve_renderer("alpaca", chat_template=None, special=SpecialTokens("<s>", None))


@pytest.mark.parametrize(
    ("messages", "generate", "problem"),
    [
        ([], False, "there is no message"),
        ([("user", "a")], False, "the last message is of 'user'"),
        ([("user", "a"), ("assistant", "b")], True, "the last message is of 'assistant'"),
        ([("assistant", "a")], False, r"messages\[0\].role is 'assistant'"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], False, r"messages\[1\].role is 'user'"),
        ([("user", "a"), ("system", "s"), ("assistant", "c")], False, r"messages\[1\].role is 'system'"),
        ([("user", "a"), ("tool", "s"), ("assistant", "c")], False, r"messages\[1\].role is 'tool'"),
    ],
)
def test_conversations_without_a_place_in_the_template(
    messages: list[tuple[Role, str]], generate: bool, problem: str
) -> None:
    renderer = resolve_renderer("alpaca", chat_template=None, special=LLAMA)
    with pytest.raises(UserError, match=r"^chats\.jsonl:3: template alpaca: " + problem):
        renderer.render(conversation(*messages), add_generation_prompt=generate)


def test_tools_and_images_are_not_dropped() -> None:
    renderer = resolve_renderer("alpaca", chat_template=None, special=LLAMA)
    talk = conversation(("user", "q"), ("assistant", "a"))
    with pytest.raises(UserError, match="tools"):
        renderer.render(Conversation(talk.messages, talk.place, tools=({"name": "f"},)))
    with pytest.raises(UserError, match=r"messages\[0\] has images"):
        renderer.render(Conversation((Message("user", "q", images=("a.png",)), talk.messages[1]), talk.place))


def test_names() -> None:
    assert {"alpaca", "llama2-zh", "chat_template"} <= set(template_names())
    assert resolve_renderer(None, chat_template=CHAT, special=LLAMA).name == "chat_template"
    assert resolve_renderer("chat_template", chat_template=CHAT, special=LLAMA).name == "chat_template"
    assert resolve_renderer("alpaca", chat_template=CHAT, special=LLAMA).name == "alpaca"
    with pytest.raises(UserError, match="did you mean alpaca"):
        resolve_renderer("alpacca", chat_template=CHAT, special=LLAMA)
    with pytest.raises(UserError, match=r"no chat template.*alpaca, llama2-zh"):
        resolve_renderer(None, chat_template=None, special=LLAMA)
