"""Tools in the checkpoint's own chat template: the text against transformers, the mask against texts by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from every_token import SPECIAL as EVERY
from hanlin.errors import UserError
from hanlin.template import Renderer, SpecialTokens, resolve_renderer
from hanlin.types import Conversation, Message, Place, Segment

SPECIAL = SpecialTokens("<s>", "</s>", ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool_call>", "[TOOL_CALLS]"))

TAGS = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{%- if not loop.previtem or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\\n<r>' + m.content + '</r>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for call in m.tool_calls %}
{%- if m.content or not loop.first %}{{ '\\n' }}{% endif %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""The shape of Qwen2.5's: results in one user message, calls after the text."""

INST = """\
{{ bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}{% if tools and loop.index0 == 0 %}{{ tools | tojson }}{% endif %}
{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[R]{"content": ' + m.content | tojson + ', "id": "' + m.tool_call_id + '"}[/R]' }}
{%- elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}{{ ', ' if not loop.last }}{% endfor %}
{{- ']' + eos_token }}
{%- else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""
"""The shape of the later Mistral's: no prompt for generation, ids of calls, results quoted."""

AS_TEXT = """\
{% for m in messages %}{{ m.role + ':' }}{% for call in m.tool_calls %}
{{- call.function.name + ' ' + call.function.arguments + ';' ~ call.function.arguments }}{% endfor %}
{{- m.content + '<|im_end|>' }}{% endfor %}"""
"""Arguments as text, added and printed; an answer's header is not the generation prompt's."""

WEATHER = {"type": "function", "function": {"name": "f", "description": "天气", "parameters": {"type": "object"}}}


def called(arguments: Any, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def talk(*messages: Message, tools: tuple[dict[str, Any], ...] = ()) -> Conversation:
    return Conversation(messages, Place("rows.jsonl", line=4), tools=tools)


def renderer_of(source: str, special: SpecialTokens = SPECIAL) -> Renderer:
    return resolve_renderer(None, chat_template=source, special=special)


def text_of(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def trained(segments: list[Segment], message: int) -> str:
    return "".join(segment.text for segment in segments if segment.trained and segment.message == message)


CALLS = (
    Message("user", "Paris?"),
    Message("assistant", "", tool_calls=(called({"city": "Paris"}, id="a"),)),
    Message("tool", '18 "C"', tool_call_id="a"),
    Message("assistant", "Warm."),
)
TWO = (called('{"city":"罗马"}', id="b"), called({}, "g", id="c"))


def test_calls_in_tags() -> None:
    segments = renderer_of(TAGS).render(
        talk(*CALLS, Message("user", "q"), Message("assistant", "I ask.", tool_calls=TWO), tools=(WEATHER,))
    )
    assert trained(segments, 1) == '<tool_call>{"name": "f", "arguments": {"city": "Paris"}}</tool_call><|im_end|>'
    assert trained(segments, 3) == "Warm.<|im_end|>"
    assert trained(segments, 5) == (
        'I ask.\n<tool_call>{"name": "f", "arguments": {"city": "罗马"}}</tool_call>\n'
        '<tool_call>{"name": "g", "arguments": {}}</tool_call><|im_end|>'
    )
    assert {segment.message for segment in segments} == {None, 1, 3, 5}
    assert [s.text for s in segments if s.special and s.message == 1] == ["<tool_call>", "<|im_end|>"]
    assert '<|im_start|>user\n<r>18 "C"</r><|im_end|>\n<|im_start|>assistant\nWarm.' in text_of(segments)


def test_calls_without_a_prompt_for_generation() -> None:
    renderer = renderer_of(INST)
    segments = renderer.render(talk(*CALLS, tools=(WEATHER,)))
    assert trained(segments, 1) == '[TOOL_CALLS][{"name": "f", "arguments": {"city": "Paris"}, "id": "a"}]</s>'
    assert trained(segments, 3) == "Warm.</s>"
    assert r'[R]{"content": "18 \"C\"", "id": "a"}[/R]' in text_of(segments)
    end = renderer.render(talk(CALLS[0], Message("assistant", "", tool_calls=TWO)))
    assert trained(end, 1) == (
        '[TOOL_CALLS][{"name": "f", "arguments": {"city": "罗马"}, "id": "b"}, '
        '{"name": "g", "arguments": {}, "id": "c"}]</s>'
    )


def test_arguments_as_text_and_the_prompt_that_training_sees() -> None:
    renderer = renderer_of(AS_TEXT)
    segments = renderer.render(talk(*CALLS))
    assert trained(segments, 1) == 'f {"city": "Paris"};{"city": "Paris"}<|im_end|>'
    prompt = renderer.render(talk(*CALLS[:3]), add_generation_prompt=True)
    assert text_of(prompt).endswith('tool:18 "C"<|im_end|>assistant:')
    assert segments[: len(prompt)] == prompt


@pytest.mark.parametrize("source", [TAGS, INST])
def test_prompts_begin_what_training_sees(source: str) -> None:
    renderer = renderer_of(source)
    whole = renderer.render(talk(*CALLS, tools=(WEATHER,)))
    for end in (1, 3):
        prompt = renderer.render(talk(*CALLS[:end], tools=(WEATHER,)), add_generation_prompt=True)
        assert text_of(whole).startswith(text_of(prompt))
        assert [s for s in whole if s.message == end and s.trained] == [
            s for s in renderer.render(talk(*CALLS[: end + 1], tools=(WEATHER,))) if s.message == end
        ]


WORDS = st.lists(st.sampled_from(["<|im_end|>", "<tool_call>", "</s>", '"', "\\", "\n", "你", "a", "\U000f0000", "{"]))
TEXTS = WORDS.map("".join)


@pytest.mark.parametrize("source", [TAGS, INST])
@given(texts=st.lists(TEXTS, min_size=6, max_size=6), result=TEXTS.filter(bool))
@settings(max_examples=40, deadline=None)
def test_text_of_calls_results_and_tools_never_becomes_special(source: str, texts: list[str], result: str) -> None:
    """The row has the special tokens of the same row with harmless texts, and reads as Python's json writes it."""
    key, value, inner, about, question, answer = texts
    calls = (called({key: value, "n": [1, None, inner]}, id="a"),)

    def row(harmless: bool) -> Conversation:
        tool = {"type": "function", "function": {"name": "f", "description": "x" if harmless else about}}
        messages = (
            Message("user", "q" if harmless else f"q{question}"),
            Message("assistant", "", tool_calls=(called({"k": "v"}, id="a"),) if harmless else calls),
            Message("tool", "t" if harmless else result, tool_call_id="a"),
            Message("assistant", "a" if harmless else f"a{answer}"),
        )
        return talk(*messages, tools=(tool,))

    renderer = renderer_of(source)
    segments = renderer.render(row(False))
    assert [s.text for s in segments if s.special] == [s.text for s in renderer.render(row(True)) if s.special]
    arguments = json.dumps(calls[0]["function"]["arguments"], ensure_ascii=False)
    expected = {
        TAGS: f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call><|im_end|>',
        INST: f'[TOOL_CALLS][{{"name": "f", "arguments": {arguments}, "id": "a"}}]</s>',
    }
    assert trained(segments, 1) == expected[source]
    stop = "<|im_end|>" if source is TAGS else "</s>"
    assert trained(segments, 3) == f"a{answer}{stop}"
    assert {segment.message for segment in segments if segment.trained} == {1, 3}


def test_the_text_is_that_of_transformers() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    hf = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    for source in (TAGS, INST):
        hf.chat_template = source
        raw = [
            {"role": "user", "content": "Paris?"},
            {"role": "assistant", "content": "", "tool_calls": [called({"city": "Paris"}, id="a"), TWO[1]]},
            {"role": "tool", "content": '18 "C"', "tool_call_id": "a"},
            {"role": "assistant", "content": "Warm."},
        ]
        want = hf.apply_chat_template(raw, tools=[WEATHER], tokenize=False)
        asked = Message("assistant", "", tool_calls=(called({"city": "Paris"}, id="a"), TWO[1]))
        assert text_of(renderer_of(source).render(talk(CALLS[0], asked, *CALLS[2:], tools=(WEATHER,)))) == want


BODY = "{{ m.role + ':' + m.content }}"
FRAME = "{{% for m in messages %}}{}{{{{ eos_token }}}}{{% endfor %}}"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (FRAME.format(BODY), "leaves out tool calls, or changes"),
        (
            FRAME.format(BODY + "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}"),
            "leaves out tool calls",
        ),
        (FRAME.format("{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}" + BODY), "cannot be found"),
        (
            FRAME.format(BODY + "{% for c in m.tool_calls %}{{ c.function.name | upper }}{% endfor %}"),
            "changes their names",
        ),
    ],
)
def test_calls_that_do_not_arrive_are_refused(source: str, problem: str) -> None:
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: ") as caught:
        renderer_of(source).render(talk(CALLS[0], Message("assistant", "", tool_calls=TWO)))
    assert problem in str(caught.value) and "--template" in str(caught.value)


def test_tools_that_do_not_arrive_are_refused() -> None:
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: the tokenizer's chat template leaves out the tools"):
        renderer_of(FRAME.format(BODY)).render(talk(CALLS[0], CALLS[3], tools=(WEATHER,)))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            (CALLS[0], Message("assistant", "", tool_calls=(called({}, id="</s>"),))),
            "tool_calls[0].id holds the special",
        ),
        (
            (*CALLS[:2], Message("tool", "t", tool_call_id="<s>"), CALLS[3]),
            "messages[2].tool_call_id holds the special",
        ),
        ((CALLS[0], Message("assistant", "", tool_calls=(called("[]"),))), "tool_calls[0]: the arguments are no JSON"),
        ((Message("user", "q", tool_calls=TWO), CALLS[3]), "messages[0] is of user and has tool calls"),
        ((Message("user", "q", images=("a.png",)), CALLS[3]), "messages[0] has images"),
    ],
)
def test_bad_calls(messages: tuple[Message, ...], problem: str) -> None:
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: ") as caught:
        renderer_of(TAGS).render(talk(*messages))
    assert problem in str(caught.value)


def test_named_and_own_template_write_the_same() -> None:
    """Of a template in Jinja that writes Llama 3.1's form of calls: dates, tools in the first question, results."""
    source = (
        "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{% if tools %}"
        "{{ 'Environment: ipython\\n' }}{% endif %}"
        "{{ 'Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n<|eot_id|>' }}"
        "{% for m in messages %}"
        "{{ '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end_header_id|>\\n\\n' }}"
        "{% if loop.first and tools %}{{ 'Given the following functions, please respond with a JSON for a function "
        "call "
        'with its proper arguments that best answers the given prompt.\\n\\nRespond in the format {"name": function '
        'name, "parameters": dictionary of argument name and its value}.Do not use variables.\\n\\n\' }}'
        "{% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}{% endif %}"
        "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
        "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' + f.arguments | tojson + '}' }}"
        "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}{{ '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    )
    named = resolve_renderer("llama3.1", chat_template=None, special=EVERY)
    own = renderer_of(source, EVERY)
    for end in (2, 4):
        row = talk(*CALLS[:end], tools=(WEATHER,))
        assert text_of(named.render(row)) == text_of(own.render(row))
        assert trained(named.render(row), 1) == trained(own.render(row), 1) != ""
