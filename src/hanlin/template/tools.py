"""How a named template writes tools, calls of them and what they returned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hanlin.errors import UserError
from hanlin.template.form import Template, ToolForm
from hanlin.template.parts import Cutter, fill
from hanlin.types import Message, Place, Segment

_NAME = re.compile(r"[^\s\"\\]+")
"""A name of a function: templates write it between quotes or in a line of its own."""


class ToolWriter:
    """Writes with the form of tools of one template."""

    def __init__(self, template: Template, form: ToolForm, cutter: Cutter) -> None:
        """Cuts all parts, so that a token that the tokenizer lacks is noticed before the first row."""
        cut = cutter.cut
        self._form = form
        self._name = template.name
        bare = template.header if template.bare_header is None else template.bare_header
        self._header = cut(template.header if form.header is None else form.header)
        self._bare_header = cut(bare if form.bare_header is None else form.bare_header)
        prompt = template.prompt if form.prompt is None else form.prompt
        self._prompt = cut(prompt)
        self._first_prompt = cut(prompt if form.first_prompt is None else form.first_prompt)
        self._tool, self._lead = cut(form.tool), cut(form.lead)
        self._before_calls, self._between_calls = cut(form.before_calls or ""), cut(form.between_calls or "")
        self._call, self._call_suffix = cut(form.call), cut(form.call_suffix or "")
        self._result, self._between_results = cut(form.result), cut(form.between_results)
        self._results = cut(form.results)

    @property
    def stops(self) -> tuple[str, ...]:
        """The special tokens that close an answer with calls, where they are others than after text."""
        return tuple(text for kind, text in self._call_suffix if kind == "special")

    def header(self, system: str, tools: Sequence[Mapping[str, Any]], place: Place) -> list[Segment]:
        """The header of a conversation that lists ``tools``."""
        part = self._header if system else self._bare_header
        return fill(part, {"system": system, "tools": self._list(tools, place)})

    def prompt(self, values: Mapping[str, str], tools: Sequence[Mapping[str, Any]], place: Place) -> list[Segment]:
        """One turn of such a conversation, up to where the answer starts; ``values`` as for the template's prompt."""
        first = values["round"] == "1"
        part = self._first_prompt if first else self._prompt
        return fill(part, {**values, "tools": self._list(tools, place) if first else ()})

    def text(self, content: str, answer: int) -> list[Segment]:
        """An answer of text where tools are listed, without what closes it."""
        return [*fill(self._lead, answer=answer), Segment(content, trained=True, message=answer)]

    def calls(self, message: Message, answer: int, *, listed: bool, place: Place) -> list[Segment]:
        """An answer with calls, without what closes it. ``listed``: whether the conversation lists tools."""
        form, where = self._form, f"messages[{answer}]"
        if form.lead and not listed:
            self._refuse(place, f"{where} has tool calls and the row lists no tools", "the tools in the row")
        if message.content and form.before_calls is None:
            self._refuse(place, f"{where} has text and tool calls", "text or tool calls in an answer")
        if len(message.tool_calls) > 1 and form.between_calls is None:
            self._refuse(place, f"{where} has {len(message.tool_calls)} tool calls", "one at a time")
        segments: list[Segment] = []
        if message.content:
            segments.append(Segment(message.content, trained=True, message=answer))
            segments += fill(self._before_calls, answer=answer)
        for number, call in enumerate(message.tool_calls):
            if number:
                segments += fill(self._between_calls, answer=answer)
            name, arguments = read_call(call, f"{where}.tool_calls[{number}]", place)
            segments += fill(self._call, {"name": name, "arguments": to_json(arguments)}, answer=answer)
        return segments

    def call_suffix(self, answer: int) -> list[Segment] | None:
        """What closes an answer with calls; None where that is what closes every answer."""
        return None if self._form.call_suffix is None else fill(self._call_suffix, answer=answer)

    def results(self, messages: Sequence[Message]) -> list[Segment]:
        """What tools returned, ``messages`` one after the other, up to where the next answer starts."""
        written: list[Segment] = []
        for number, message in enumerate(messages):
            if number:
                written += fill(self._between_results)
            text = to_json(message.content) if self._form.quoted_results else message.content
            written += fill(self._result, {"result": text})
        return fill(self._results, {"results": written})

    def _list(self, tools: Sequence[Mapping[str, Any]], place: Place) -> list[Segment]:
        segments: list[Segment] = []
        for number, tool in enumerate(tools):
            function = tool.get("function", tool)
            name = function.get("name") if isinstance(function, Mapping) else None
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                where = f"tools[{number}]"
                self._refuse(place, f"{where} is no function with a name", 'like {"type": "function", "function": {…}}')
            whole = tool if "function" in tool else {"type": "function", "function": tool}
            values = {
                "tool": to_json(whole, self._form.indent),
                "function": to_json(function, self._form.indent),
                "name": name,
            }
            segments += fill(self._tool, values)
        return segments

    def _refuse(self, place: Place, problem: str, expected: str) -> NoReturn:
        raise UserError(place, f"template {self._name}: {problem}", expected=expected)


def read_call(call: Mapping[str, Any], name: str, place: Place) -> tuple[str, dict[str, Any]]:
    """Function and arguments of a call as OpenAI writes it, or of its ``function`` alone; arguments may be JSON text.

    Raises UserError at ``place`` for a call without the name of a function or with arguments that are no JSON object.
    """
    function = call.get("function", call)
    called = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(called, str) or not _NAME.fullmatch(called):
        raise UserError(place, f"{name} does not name a function", expected='{"name": …, "arguments": {…}}')
    given = function.get("arguments")
    arguments = {} if given is None or given == "" else given
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise UserError(place, f"{name}: the arguments are no JSON object", expected='an object such as {"city": "…"}')
    return called, arguments


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as chat templates print it: letters as they are, no escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
