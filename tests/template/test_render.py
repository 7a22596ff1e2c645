"""Named templates: what they refuse, and how a name is resolved."""

from __future__ import annotations

import pytest

from every_token import SPECIAL
from hanlin.errors import UserError
from hanlin.template import (
    TEMPLATES,
    Renderer,
    SpecialTokens,
    Template,
    TemplateRenderer,
    add_template,
    resolve_renderer,
    template_names,
)
from hanlin.types import Conversation, Message, Place, Role, Segment

LLAMA = SpecialTokens("<s>", "</s>", ("<s>", "</s>"))
CHAT = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"


def conversation(*messages: tuple[Role, str]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in messages), Place("chats.jsonl", line=3))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_says_where_it_comes_from_and_stops(name: str) -> None:
    template = TEMPLATES[name]
    assert template.name == name
    assert template.source
    assert template.family
    renderer = resolve_renderer(name, chat_template=None, special=SPECIAL)
    assert renderer.name == name
    assert renderer.system == template.system
    segments = renderer.render(conversation(("user", "one"), ("assistant", "two")))
    last = segments[-1]
    assert last.special and last.trained and last.text in renderer.stop
    assert renderer.stop[0] in [segment.text for segment in segments if segment.special and segment.trained]


def shape(renderer: Renderer, *messages: tuple[Role, str]) -> list[tuple[str, bool, bool]]:
    """Text, trained and special of each segment."""
    return [segment[:3] for segment in renderer.render(conversation(*messages))]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_system_texts(name: str) -> None:
    """A system text is written or refused, never dropped; an empty one leaves no trace."""
    talk = (("user", "q"), ("assistant", "a"))
    system = "be kind {user}"
    if not TEMPLATES[name].has_system_slot:
        with pytest.raises(UserError, match=r"--system|no place for a system text"):
            resolve_renderer(name, chat_template=None, special=SPECIAL, system=system)
        renderer = resolve_renderer(name, chat_template=None, special=SPECIAL)
        with pytest.raises(UserError, match=r"chats\.jsonl:3: .* system text, for which it has no place"):
            renderer.render(conversation(("system", system), *talk))
        assert shape(renderer, ("system", ""), *talk) == shape(renderer, *talk)
        return
    given = resolve_renderer(name, chat_template=None, special=SPECIAL, system=system)
    own = resolve_renderer(name, chat_template=None, special=SPECIAL)
    assert shape(given, *talk) == shape(own, ("system", system), *talk)
    assert (system, False, False) in shape(given, *talk)
    bare = resolve_renderer(name, chat_template=None, special=SPECIAL, system="")
    assert shape(bare, *talk) == shape(own, ("system", ""), *talk)
    if name != "llama3.1":  # which writes its dates in any case
        assert "system" not in "".join(text for text, _, _ in shape(bare, *talk)).lower()


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_tool_messages_without_a_call_go_to_the_ledger(name: str) -> None:
    renderer = resolve_renderer(name, chat_template=None, special=SPECIAL)
    talk = conversation(("user", "q"), ("assistant", "a"), ("tool", "7"), ("assistant", "b"))
    with pytest.raises(UserError, match=r"^chats\.jsonl:3: template .*messages\[2\]\.role is 'tool'"):
        renderer.render(talk)


LLAMA_PIECES = ("<unk>", "<s>", "</s>", *(f"piece {i}" for i in range(100)))
LLAMA_KNOWN = SpecialTokens("<s>", "</s>", ("<s>", "</s>"), LLAMA_PIECES)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("chatml", r"writes <\|im_start\|>, <\|im_end\|>, <\|endoftext\|>: .*, which does not have them"),
        ("baichuan", r"writes token 195: .*, which has 103 tokens; expected the tokenizer of Baichuan"),
        ("chatglm2", r"writes \[gMASK\] \(token 64,790\)"),
    ],
)
def test_a_template_of_another_family_is_refused(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=rf"^--template: template {name} {problem}"):
        resolve_renderer(name, chat_template=None, special=LLAMA_KNOWN)


def test_a_numbered_token_is_found_by_its_name_first() -> None:
    """A shortened or extended vocabulary may have the token elsewhere; an ordinary piece of that name is not it."""
    pieces = ["<unk>", "<s>", "</s>", "sop", "[gMASK]", "<sop>"]
    with pytest.raises(UserError, match=r"writes sop \(token 64,792\)"):
        resolve_renderer(
            "chatglm2", chat_template=None, special=SpecialTokens("<s>", "</s>", ("</s>", "[gMASK]"), pieces)
        )
    special = SpecialTokens("<s>", "</s>", ("</s>", "[gMASK]", "sop"), pieces)
    renderer = resolve_renderer("chatglm2", chat_template=None, special=special)
    segments = renderer.render(conversation(("user", "q"), ("assistant", "a")))
    assert segments[:2] == [Segment("[gMASK]", False, special=True), Segment("sop", False, special=True)]


def test_other_names() -> None:
    renderer = resolve_renderer("chatglm2-generation", chat_template=None, special=SPECIAL)
    assert renderer.name == "chatglm-generation"
    assert resolve_renderer("Qwen2", chat_template=None, special=SPECIAL).name == "qwen"
    assert "chatglm2-generation" in template_names()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"suffix": "###"}, "no stop token"),
        ({"suffix": ""}, "no stop token"),
        ({"prompt": "Q:"}, "no place for the question"),
        ({"header": "{system}"}, "bare_header"),
        ({"bare_header": ""}, "bare_header"),
        ({"system": "be kind"}, "no place for it"),
        ({"header": "{user}"}, "header has {user}"),
        ({"suffix": "{eos}{round}"}, "suffix has {round}"),
    ],
)
def test_a_template_that_is_not_whole_is_refused(changes: dict[str, str], problem: str) -> None:
    parts = {"name": "mine", "family": "f", "source": "s", "prompt": "{user}", "suffix": "{eos}"} | changes
    with pytest.raises(UserError, match=rf"^template mine: .*{problem}"):
        Template(**parts)  # type: ignore[arg-type]


def test_a_name_is_taken_once() -> None:
    for name, also in (("alpaca", ()), ("mine", ("alpaca",)), ("phi3", ()), ("mine", ("phi3",))):
        template = Template(name=name, family="f", source="s", prompt="{user}", suffix="{eos}", also=also)
        with pytest.raises(ValueError, match="registered twice"):
            add_template(template)
    assert "mine" not in TEMPLATES


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
    with pytest.raises(UserError, match=r"no chat template.*alpaca, .*llama2-zh"):
        resolve_renderer(None, chat_template=None, special=LLAMA)
