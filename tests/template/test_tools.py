"""Tools in named templates, against renderings written by hand from the forms that the families publish.

In the expected texts ``⟨x⟩`` is the special token x and ``⟦ ⟧`` enclose what is trained.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.errors import UserError
from hanlin.template import TEMPLATES, Renderer, SpecialTokens, Template, ToolForm, resolve_renderer
from hanlin.types import Conversation, Message, Place, Segment

TOKENS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<think>", "</think>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip
SPECIAL = SpecialTokens("<s>", "</s>", TOKENS)
WITH_TOOLS = sorted(name for name, template in TEMPLATES.items() if template.tools)

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "天气", "parameters": {"type": "object", "properties": {}}},
}


def called(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


PARIS, ROME = called("get_weather", {"city": "Paris"}, id="a"), called("get_weather", '{"city":"罗马"}')
ONE_CALL = (
    Message("user", "Paris?"),
    Message("assistant", "", tool_calls=(PARIS,)),
    Message("tool", '18 "C"'),
    Message("assistant", "Warm."),
)


def row(*messages: Message, tools: tuple[dict[str, Any], ...] = (WEATHER,)) -> Conversation:
    return Conversation(messages, Place("rows.jsonl", line=4), tools=tools)


def renderer_of(name: str) -> Renderer:
    return resolve_renderer(name, chat_template=None, special=SPECIAL)


def notation(segments: list[Segment]) -> str:
    """The segments as the expected texts are written; an answer at an answer's end opens no brackets of its own."""
    text, trained = "", False
    for segment in segments:
        if segment.trained != trained:
            text += "⟦" if segment.trained else "⟧"
            trained = segment.trained
        text += f"⟨{segment.text}⟩" if segment.special else segment.text
    return text + "⟧" * trained


LISTED = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    'signatures within <tools></tools> XML tags:\n<tools>\n{"type": "function", "function": {"name": "get_weather", '
    '"description": "天气", "parameters": {"type": "object", "properties": {}}}}\n</tools>\n\nFor each function call, '
    "return a json object with function name and arguments within ⟨<tool_call>⟩⟨</tool_call>⟩ XML tags:\n⟨<tool_call>⟩"
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n⟨</tool_call>⟩⟨<|im_end|>⟩\n'
)
IM_QUESTION = "⟨<|im_start|>⟩user\nParis?⟨<|im_end|>⟩\n⟨<|im_start|>⟩assistant\n"
IM_CALL = '⟨<tool_call>⟩\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n⟨</tool_call>⟩'
IM_RESULT = '⟨<|im_start|>⟩user\n⟨<tool_response>⟩\n18 "C"\n⟨</tool_response>⟩⟨<|im_end|>⟩\n⟨<|im_start|>⟩assistant\n'
LLAMA_ROLE = "⟨<|start_header_id|>⟩{}⟨<|end_header_id|>⟩\n\n"
LLAMA_FUNCTION = """{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "天气",
        "parameters": {
            "type": "object",
            "properties": {}
        }
    }
}"""
GLM_FUNCTION = """{
    "name": "get_weather",
    "description": "天气",
    "parameters": {
        "type": "object",
        "properties": {}
    }
}"""

EXPECTED = {
    "qwen2.5": (
        "⟨<|im_start|>⟩system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n"
        f"{LISTED}{IM_QUESTION}⟦{IM_CALL}⟨<|im_end|>⟩⟧\n{IM_RESULT}⟦Warm.⟨<|im_end|>⟩⟧"
    ),
    "qwen3-instruct": (
        f"⟨<|im_start|>⟩system\n{LISTED}{IM_QUESTION}⟦{IM_CALL}⟨<|im_end|>⟩⟧\n{IM_RESULT}⟦Warm.⟨<|im_end|>⟩⟧"
    ),
    "qwen3": (
        f"⟨<|im_start|>⟩system\n{LISTED}{IM_QUESTION}{IM_CALL}⟨<|im_end|>⟩\n{IM_RESULT}"
        "⟨<think>⟩\n\n⟨</think>⟩\n\n⟦Warm.⟨<|im_end|>⟩⟧"
    ),
    "llama3.1": (
        f"⟨<s>⟩{LLAMA_ROLE.format('system')}Environment: ipython\nCutting Knowledge Date: December 2023\n"
        f"Today Date: 26 Jul 2024\n\n⟨<|eot_id|>⟩{LLAMA_ROLE.format('user')}"
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
        'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        f"argument name and its value}}.Do not use variables.\n\n{LLAMA_FUNCTION}\n\nParis?⟨<|eot_id|>⟩"
        f'{LLAMA_ROLE.format("assistant")}⟦{{"name": "get_weather", "parameters": {{"city": "Paris"}}}}⟨<|eot_id|>⟩⟧'
        rf'{LLAMA_ROLE.format("ipython")}"18 \"C\""⟨<|eot_id|>⟩{LLAMA_ROLE.format("assistant")}⟦Warm.⟨<|eot_id|>⟩⟧'
    ),
    "glm4": (
        "⟨[gMASK]⟩⟨<sop>⟩⟨<|system|>⟩\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型"
        "开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具\n\n## get_weather\n\n"
        f"{GLM_FUNCTION}\n在调用上述函数时，请使用 Json 格式表示调用的参数。⟨<|user|>⟩\nParis?⟨<|assistant|>⟩"
        '⟦get_weather\n{"city": "Paris"}⟨<|observation|>⟩⟧\n18 "C"⟨<|assistant|>⟩⟦\nWarm.⟨<|user|>⟩⟧'
    ),
}
"""Of ONE_CALL with WEATHER listed, and no system text in the row."""


def test_every_form_of_tools_has_a_rendering() -> None:
    assert sorted(EXPECTED) == WITH_TOOLS


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_call_and_its_result(name: str) -> None:
    renderer = renderer_of(name)
    assert notation(renderer.render(row(*ONE_CALL))) == EXPECTED[name]
    prompt = renderer.render(row(*ONE_CALL[:3]), add_generation_prompt=True)
    assert EXPECTED[name].startswith(notation(prompt))
    assert notation(prompt).endswith(("assistant\n", "\n\n", "⟨<|assistant|>⟩"))
    bare = row(*ONE_CALL, tools=(WEATHER["function"],))  # type: ignore[arg-type]
    assert renderer.render(bare) == renderer.render(row(*ONE_CALL)), "a function alone is one too"


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_prompts_begin_what_training_sees(name: str) -> None:
    """And after a call at the end generation stops, which the call teaches."""
    renderer = renderer_of(name)
    talk = (*ONE_CALL, Message("user", "and now?"), Message("assistant", "Still."))
    for end in (2, 4, 6):
        whole = [segment[::2] for segment in renderer.render(row(*talk[:end]))]
        prompt = [segment[::2] for segment in renderer.render(row(*talk[: end - 1]), add_generation_prompt=True)]
        assert whole[: len(prompt)] == prompt
        stop = renderer.render(row(*talk[:end]))[-1]
        assert stop.special and stop.trained and stop.text in renderer.stop
    assert set(TEMPLATES[name].stops) == set(renderer.stop)


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3-instruct"])
def test_several_calls_and_text_beside_them(name: str) -> None:
    talk = row(
        Message("system", "Be brief."),
        Message("user", "Paris?"),
        Message("assistant", "I ask.", tool_calls=(PARIS, ROME)),
        Message("tool", "18"),
        Message("tool", "25"),
        Message("assistant", "Warm.", tool_calls=(PARIS["function"],)),
    )
    rome = IM_CALL.replace("Paris", "罗马")
    assert notation(renderer_of(name).render(talk)) == (
        f"⟨<|im_start|>⟩system\nBe brief.\n\n{LISTED}{IM_QUESTION}⟦I ask.\n{IM_CALL}\n{rome}⟨<|im_end|>⟩⟧\n"
        "⟨<|im_start|>⟩user\n⟨<tool_response>⟩\n18\n⟨</tool_response>⟩\n⟨<tool_response>⟩\n25\n⟨</tool_response>⟩"
        f"⟨<|im_end|>⟩\n⟨<|im_start|>⟩assistant\n⟦Warm.\n{IM_CALL}⟨<|im_end|>⟩⟧"
    )


def test_system_texts_beside_tools() -> None:
    """GLM-4 has a block for each; the empty system text of Qwen2.5 leaves its line breaks, as published."""
    talk = (Message("user", "Paris?"), Message("assistant", "Warm."))
    glm = notation(renderer_of("glm4").render(row(Message("system", "简"), *talk)))
    assert "表示调用的参数。⟨<|system|>⟩\n简⟨<|user|>⟩\nParis?⟨<|assistant|>⟩⟦\nWarm.⟨<|user|>⟩⟧" in glm
    llama = notation(renderer_of("llama3.1").render(row(Message("system", "简"), *talk)))
    assert "Today Date: 26 Jul 2024\n\n简⟨<|eot_id|>⟩" in llama
    empty = notation(renderer_of("qwen2.5").render(row(Message("system", ""), *talk)))
    assert empty.startswith(f"⟨<|im_start|>⟩system\n\n\n{LISTED}")


def test_llama_lists_the_tools_in_the_first_question_alone() -> None:
    talk = (*ONE_CALL, Message("user", "and now?"), Message("assistant", "Still."))
    text = notation(renderer_of("llama3.1").render(row(*talk)))
    assert text.count("Given the following functions") == text.count(LLAMA_FUNCTION) == 1
    assert f"⟨<|eot_id|>⟩⟧{LLAMA_ROLE.format('user')}and now?⟨<|eot_id|>⟩" in text


def test_calls_without_a_list_of_tools() -> None:
    """The list may stand in the system text; GLM-4 alone begins answers of text otherwise where tools are listed."""
    text = notation(renderer_of("qwen3-instruct").render(row(*ONE_CALL, tools=())))
    assert text == f"{IM_QUESTION}⟦{IM_CALL}⟨<|im_end|>⟩⟧\n{IM_RESULT}⟦Warm.⟨<|im_end|>⟩⟧"
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: template glm4: messages\[1\] .* the row lists no tools"):
        renderer_of("glm4").render(row(*ONE_CALL, tools=()))


USER, TOOL, ANSWER = Message("user", "q"), Message("tool", "t"), Message("assistant", "a")


@pytest.mark.parametrize(
    ("name", "messages", "problem"),
    [
        ("qwen2.5", (USER, ANSWER, TOOL, ANSWER), r"messages\[2\]\.role is 'tool'; expected 'user'"),
        ("qwen2.5", (USER, TOOL, ANSWER), r"messages\[1\]\.role is 'tool'; expected 'assistant'"),
        ("qwen2.5", (*ONE_CALL[:2], USER, ANSWER), r"messages\[2\]\.role is 'user'; expected 'tool'"),
        ("qwen2.5", ONE_CALL[:3], r"the last message is of 'tool'"),
        ("qwen2.5", (USER, Message("user", "q", tool_calls=(PARIS,))), r"messages\[1\] has tool calls"),
        ("llama3.1", (USER, Message("assistant", "", tool_calls=(PARIS, ROME))), "has 2 tool calls; expected one at a"),
        ("llama3.1", (USER, Message("assistant", "a", tool_calls=(PARIS,))), r"messages\[1\] has text and tool calls"),
        ("glm4", (USER, Message("assistant", "", tool_calls=(PARIS, ROME))), "has 2 tool calls; expected one at a"),
        ("qwen3", (USER, Message("assistant", "<think>\nx\n</think>\n\na")), "holds <think>; expected answers without"),
        ("yi", ONE_CALL, "there are tools, for which it has no place"),
        ("mistral-v0.3", ONE_CALL, "there are tools, for which it has no place"),
    ],
)
def test_what_has_no_place_is_refused(name: str, messages: tuple[Message, ...], problem: str) -> None:
    special = SpecialTokens("<s>", "</s>", (*TOKENS, "[INST]", "[/INST]"))
    with pytest.raises(UserError, match=rf"^rows\.jsonl:4: template {name}: .*{problem}"):
        resolve_renderer(name, chat_template=None, special=special).render(row(*messages))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (called("get_weather", "Paris"), "the arguments are no JSON object"),
        (called("get_weather", "[1]"), "the arguments are no JSON object"),
        (called("get_weather", 1), "the arguments are no JSON object"),
        (called("get weather", {}), "does not name a function"),
        (called("", {}), "does not name a function"),
        ({"function": "get_weather"}, "does not name a function"),
        ({}, "does not name a function"),
    ],
)
def test_calls_that_say_nothing(call: dict[str, Any], problem: str) -> None:
    talk = row(USER, Message("assistant", "", tool_calls=(PARIS, call)))
    with pytest.raises(UserError, match=rf"^rows\.jsonl:4: messages\[1\]\.tool_calls\[1\]:? {problem}"):
        renderer_of("qwen2.5").render(talk)
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: template qwen2\.5: tools\[1\] is no function with a name"):
        renderer_of("qwen2.5").render(row(USER, ANSWER, tools=(WEATHER, {"description": "?"})))


def test_absent_arguments_are_an_empty_object() -> None:
    for given_ in ({"name": "now"}, {"name": "now", "arguments": None}, {"name": "now", "arguments": ""}):
        text = notation(renderer_of("qwen2.5").render(row(USER, Message("assistant", "", tool_calls=(given_,)))))
        assert '{"name": "now", "arguments": {}}' in text


TEXTS = st.one_of(st.text(max_size=12), st.lists(st.sampled_from([*TOKENS, '"', "{result}", "\n", "你"])).map("".join))


@st.composite
def conversations(draw: st.DrawFn, name: str) -> Conversation:
    """Questions, each with up to two rounds of calls before the answer."""
    form = TEMPLATES[name].tools
    assert form is not None
    words = TEXTS.filter(lambda text: name != "qwen3" or "think>" not in text)
    tools = ({"name": "f", "description": draw(TEXTS), "parameters": {draw(TEXTS): draw(TEXTS)}},)
    messages = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message("user", draw(TEXTS)))
        for _ in range(draw(st.integers(0, 2))):
            num_calls = draw(st.integers(1, 1 if form.between_calls is None else 2))
            calls = tuple(called("f", {draw(TEXTS): draw(TEXTS), "n": [1, None]}) for _ in range(num_calls))
            messages.append(Message("assistant", "" if form.before_calls is None else draw(words), tool_calls=calls))
            messages += [Message("tool", draw(TEXTS)) for _ in range(num_calls)]
        messages.append(Message("assistant", draw(words)))
    return Conversation(tuple(messages), Place("x.jsonl", line=1), tools=tools)


CALLS = {
    "qwen": '<tool_call>\n{{"name": "f", "arguments": {}}}\n</tool_call>',
    "llama": '{{"name": "f", "parameters": {}}}',
    "glm4": "f\n{}",
}


def target(name: str, message: Message) -> str:
    """Text, calls and stop of an answer."""
    family = "glm4" if name == "glm4" else "llama" if name == "llama3.1" else "qwen"
    stop = {"qwen": "<|im_end|>", "llama": "<|eot_id|>", "glm4": "<|user|>"}[family]
    calls = [
        CALLS[family].format(json.dumps(call["function"]["arguments"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    if family == "glm4":
        return calls[0] + "<|observation|>" if calls else f"\n{message.content}{stop}"
    return "\n".join([*([message.content] if message.content or not calls else []), *calls]) + stop


@pytest.mark.parametrize("name", WITH_TOOLS)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_answers_calls_and_stops_are_trained_and_nothing_else(name: str, data: st.DataObject) -> None:
    talk = data.draw(conversations(name))
    renderer = renderer_of(name)
    segments = renderer.render(talk)
    answers = [i for i, message in enumerate(talk.messages) if message.role == "assistant"]
    if name == "qwen3":  # earlier answers stand there without the thought that was before them
        answers = answers[-1:]
    texts = ["".join(s.text for s in segments if s.trained and s.message == i) for i in answers]
    assert texts == [target(name, talk.messages[i]) for i in answers]
    assert {segment.message for segment in segments if segment.trained} == set(answers)
    # Words of the row are text: with harmless ones the special tokens are the same.
    harmless = [
        Message(m.role, m.content and "x", tool_calls=tuple(called("f", {"k": "v"}) for _ in m.tool_calls))
        for m in talk.messages
    ]
    plain = renderer.render(Conversation(tuple(harmless), talk.place, tools=({"name": "f"},)))
    assert [s.text for s in segments if s.special] == [s.text for s in plain if s.special]
    assert all(segment.text in TOKENS for segment in segments if segment.special)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"call": "{name}"}, "call of tools has no {arguments}"),
        ({"result": "x"}, "result of tools has no {result}"),
        ({"results": "{result}"}, "results has {result}, which means nothing"),
        ({"tool": "{name}"}, "tool of tools says nothing"),
        ({"first_prompt": None}, "the list of tools needs one place"),
        ({"first_prompt": "{tools}"}, "first_prompt of tools has no place for the question"),
        ({"header": "{system}{tools}", "bare_header": "{tools}", "first_prompt": None}, "differ in their place for a"),
    ],
)
def test_a_form_that_is_not_whole_is_refused(changes: dict[str, Any], problem: str) -> None:
    parts = {
        "first_prompt": "{tools}{user}", "tool": "{tool}", "call": "{name}{arguments}", "result": "{result}",
        "results": "{results}",
    } | changes  # fmt: skip
    with pytest.raises(UserError, match=r"^template mine: ") as caught:
        Template(name="mine", family="f", source="s", prompt="{user}", suffix="{eos}", tools=ToolForm(**parts))
    assert problem in str(caught.value)
