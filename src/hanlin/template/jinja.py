"""The renderer of a checkpoint's own chat template.

A chat template returns one string; it does not say which part of it came from a message. To find out, every message is
put between two characters that occur nowhere else, the template is run, and the characters show where each text went.
Without them the result must be the plain rendering, so a template that looks into the text cannot mislead us.

Tool calls come out as JSON, in a frame of the template. There the name of the function is marked, and each text in the
arguments that spells a special token. What the answer begins with is what follows the text that the template writes
when it is asked for an answer in that place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hanlin.errors import UserError
from hanlin.template.marks import (
    Arguments,
    Json,
    Marks,
    Region,
    Unplaced,
    free_characters,
    marked_call,
    marked_texts,
    read_marks,
    stripped,
)
from hanlin.template.parts import SpecialTokens
from hanlin.template.tools import read_call, to_json
from hanlin.types import Conversation, Place, Segment

_OTHER_TEMPLATE = "name a template with --template"


class _Generation(jinja2.ext.Extension):
    """Accepts the ``{% generation %}`` blocks of some templates; where answers are is found by the marks instead."""

    tags = {"generation"}  # noqa: RUF012 - the declaration of jinja2

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class JinjaRenderer:
    """Renders with the checkpoint's own chat template, in a sandbox."""

    name = "chat_template"
    tokens: tuple[str, ...] = ()  # it writes those that the tokenizer itself calls special or added

    def __init__(
        self,
        source: str,
        special: SpecialTokens,
        *,
        system: str | None = None,
        place: str = "--template",
        now: datetime | None = None,
    ) -> None:
        """Compiles ``source`` and asks it, on one question with its answer, how an answer starts and stops.

        ``now`` is the moment that a template which writes the date sees; it is read once, so that all rows of a run
        are alike. Raises UserError at ``place`` for a template that is broken or writes no stop token after an answer.
        """
        self.system = system
        self._place = place
        self._special = special
        self._source = source
        self._tokens = re.compile("|".join(re.escape(t) for t in sorted(special.all, key=len, reverse=True)) or r"(?!)")
        try:
            self._template = _environment(now or datetime.now()).from_string(source)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            raise UserError(
                place, f"the tokenizer's chat template is broken{where}: {error}", mend=_OTHER_TEMPLATE
            ) from None
        self._lead: str | None = None
        self.stop: tuple[str, ...] = ()
        self._ask()

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """See ``Renderer.render``. A special token inside a message stays text; one of the template is the token."""
        place = conversation.place
        messages, offset = self._messages(conversation)
        roles = [message["role"] for message in messages]
        tools = [dict(tool) for tool in conversation.tools] or None
        self._check_tools(messages, tools, place)
        if not messages or (roles[-1] == "assistant") == add_generation_prompt:
            raise UserError(
                place,
                f"the last message is of {roles[-1]!r}" if roles else "there is no message",
                expected="a last message before the answer to be written"
                if add_generation_prompt
                else "an assistant message last",
            )
        if add_generation_prompt and self._lead is None:
            # The template starts an answer in another way when asked to: take the start that training sees.
            messages.append({"role": "assistant", "content": "answer"})
            regions = self._regions(messages, tools, place)
            cut = next(i for i, region in enumerate(regions) if region.message == len(roles))
            regions = regions[:cut]
        else:
            regions = self._regions(messages, tools, place, add_generation_prompt)
        for index, message in enumerate(messages):
            if message.get("tool_calls"):
                regions = self._with_calls(regions, messages, tools, index, place)
        return list(self._segments(regions, roles, offset))

    def _messages(self, conversation: Conversation) -> tuple[list[Json], int]:
        """The messages as the template wants them, and how many were put before those of the conversation."""
        messages: list[Json] = []
        if self.system is not None and not any(m.role == "system" for m in conversation.messages[:1]):
            messages.append({"role": "system", "content": self.system})
        offset = len(messages)
        for index, message in enumerate(conversation.messages):
            place, name = conversation.place, f"messages[{index}]"
            if message.images:
                raise UserError(place, f"{name} has images, which the chat template cannot be given yet")
            given: Json = {"role": message.role, "content": message.content}
            if message.tool_calls:
                if message.role != "assistant":
                    raise UserError(
                        place, f"{name} is of {message.role} and has tool calls", expected="them in answers"
                    )
                given["tool_calls"] = [
                    self._call(call, f"{name}.tool_calls[{number}]", place)
                    for number, call in enumerate(message.tool_calls)
                ]
            if message.tool_call_id is not None:
                self._check_no_token(message.tool_call_id, f"{name}.tool_call_id", place)
                given["tool_call_id"] = message.tool_call_id
            messages.append(given)
        return messages, offset

    def _call(self, call: Mapping[str, Any], name: str, place: Place) -> Json:
        """A call as templates look for it, its arguments as an object."""
        function, arguments = read_call(call, name, place)
        given: Json = {"type": "function", "function": {"name": function, "arguments": Arguments(arguments)}}
        if isinstance(call.get("id"), str):
            self._check_no_token(call["id"], f"{name}.id", place)
            given["id"] = call["id"]
        return given

    def _check_no_token(self, text: str, name: str, place: Place) -> None:
        """Refuses a special token in text that templates look into, where marks would change what they see."""
        if found := self._tokens.search(text):
            raise UserError(place, f"{name} holds the special token {found.group()}", expected="ordinary text")

    def _check_tools(self, messages: Sequence[Json], tools: list[Json] | None, place: Place) -> None:
        """Refuses tools of which the template writes nothing."""
        if tools and messages and self._run(messages, tools, place, False) == self._run(messages, None, place, False):
            raise UserError(
                place, "the tokenizer's chat template leaves out the tools", mend=f"remove them or {_OTHER_TEMPLATE}"
            )

    def _with_calls(
        self,
        regions: Sequence[Region],
        messages: Sequence[Json],
        tools: list[Json] | None,
        index: int,
        place: Place,
    ) -> list[Region]:
        """The regions, in which all that the model writes of the answer ``index``, with calls, belongs to it."""
        own = [i for i, region in enumerate(regions) if region.message == index]
        first, last = own[0], own[-1]
        before = self._before_answer(messages[:index], tools, place)
        started = first > 1 and regions[first - 1].message is None and regions[first - 2].message == index - 1
        after = regions[last + 1] if last + 1 < len(regions) else Region("", None)
        stops = [after.text.find(stop) + len(stop) for stop in self.stop if stop in after.text]
        if not started or not stops or after.message is not None or not regions[first - 1].text.startswith(before):
            self._refuse(place, messages, Unplaced(index, calls=True))
        end = min(stops)
        return [
            *regions[: first - 1],
            Region(before, None),
            Region(regions[first - 1].text[len(before) :], index),
            *(region._replace(message=index) for region in regions[first : last + 1]),
            Region(after.text[:end], index),
            Region(after.text[end:], None),
            *regions[last + 2 :],
        ]

    def _before_answer(self, messages: Sequence[Json], tools: list[Json] | None, place: Place) -> str:
        """What the template writes between the last of ``messages`` and the place where an answer starts."""
        if self._lead is None:
            regions = self._regions([*messages, {"role": "assistant", "content": "answer"}], tools, place)
            start = next(i for i, region in enumerate(regions) if region.message == len(messages))
            return regions[start - 1].text
        last = self._regions(messages, tools, place, True)[-1]
        return last.text if last.message is None else ""

    def _segments(self, regions: Sequence[Region], roles: Sequence[str], offset: int) -> Iterator[Segment]:
        """Segments of the regions; an answer takes its lead and its stop from the template text around it."""
        texts = [region.text for region in regions]
        leads, stops = [""] * len(regions), [""] * len(regions)
        with_calls = {region.message for region in regions if region.message is not None and not region.given}
        for i, (_, message, _) in enumerate(regions):
            if message is None or roles[message] != "assistant" or message in with_calls:
                continue
            if i + 1 < len(regions) and regions[i + 1].message is None and (stop := self._stop_in(texts[i + 1])):
                stops[i], texts[i + 1] = stop, texts[i + 1][len(stop) :]
            lead = self._lead or ""
            if lead and i and regions[i - 1].message is None and texts[i - 1].endswith(lead):
                leads[i], texts[i - 1] = lead, texts[i - 1][: -len(lead)]
        for (_, message, given), text, lead, stop in zip(regions, texts, leads, stops, strict=True):
            answer = message - offset if message is not None and roles[message] == "assistant" else None
            yield from self._split(lead, answer)
            if given:
                yield Segment(text, trained=answer is not None, message=answer)
            else:
                yield from self._split(text, answer)
            yield from self._split(stop, answer)

    def _split(self, text: str, answer: int | None = None) -> Iterator[Segment]:
        """Text of the template as segments, its special tokens apart; trained as part of ``answer`` where given."""
        start = 0
        for match in self._tokens.finditer(text):
            if match.start() > start:
                yield Segment(text[start : match.start()], answer is not None, message=answer)
            yield Segment(match.group(), answer is not None, special=True, message=answer)
            start = match.end()
        if start < len(text):
            yield Segment(text[start:], answer is not None, message=answer)

    def _stop_in(self, text: str) -> str:
        """The start of ``text`` up to its first stop token when only white space stands before it, else nothing."""
        for stop in self.stop:
            if text.lstrip().startswith(stop):
                return text[: text.index(stop) + len(stop)]
        return ""

    def _ask(self) -> None:
        """Learn the stop token, and what the template writes between the generation prompt and an answer (the lead).

        What lies between them must come from the model at inference, so it is trained with the answer: nothing in most
        templates, a space in some. When the generation prompt is not the start of what training sees, the lead is None.
        """
        place = Place(self._place)
        question: list[Json] = [{"role": "user", "content": "question"}]
        regions = self._regions([*question, {"role": "assistant", "content": "answer"}], None, place)
        start = next(i for i, region in enumerate(regions) if region.message == 1)
        after = regions[start + 1].text if start + 1 < len(regions) else ""
        match = self._tokens.match(after.lstrip())
        if match is None:
            raise UserError(
                self._place,
                "the tokenizer's chat template writes no stop token after an answer",
                expected="a special token there, so that the model learns to stop",
                mend=_OTHER_TEMPLATE,
            )
        eos = (self._special.eos,) if self._special.eos and self._special.eos != match.group() else ()
        self.stop = (match.group(), *eos)
        before = "".join(region.text for region in regions[:start])
        prompt, bare = self._run(question, None, place, True), self._run(question, None, place, False)
        lead = before[len(prompt) :] if before.startswith(prompt) else None
        # A template that does not know add_generation_prompt would leave the assistant's header to the model.
        self._lead = None if lead and lead.strip() and prompt == bare else lead

    def _regions(
        self, messages: Sequence[Json], tools: list[Json] | None, place: Place, add_generation_prompt: bool = False
    ) -> list[Region]:
        """The rendering, cut where each message's text begins and ends. Empty messages have no region."""
        plain = self._run(messages, tools, place, add_generation_prompt)
        calls = [message.get("tool_calls", []) for message in messages]
        contents = (char for message in messages for char in message["content"])
        free = free_characters((*plain, *contents, *to_json([calls, tools])))
        marks = [Marks(next(free), next(free), index) for index in range(len(messages))]
        call_marks = [Marks(next(free), next(free), index, calls=True) for index in range(len(messages))]
        tool_marks = Marks(next(free), next(free), None)
        marked_tools = marked_texts(tools, tool_marks, self._tokens)

        def located(contents: Sequence[str | None]) -> list[Region]:
            """Regions with the texts to mark given; None leaves a message as it is."""
            marked: list[Json] = []
            for message, content, mark, call_mark in zip(messages, contents, marks, call_marks, strict=True):
                changes: Json = {} if content is None else {"content": mark.open + content + mark.close}
                if "tool_calls" in message:
                    changes["tool_calls"] = [
                        marked_call(call, call_mark, self._tokens) for call in message["tool_calls"]
                    ]
                marked.append({**message, **changes})
            rendered = self._run(marked, marked_tools, place, add_generation_prompt)
            return read_marks(rendered, plain, [*marks, *call_marks, tool_marks], contents, messages)

        as_given: list[str | None] = [message["content"] or None for message in messages]
        try:
            return located(as_given)
        except Unplaced:
            pass  # many templates strip white space around a text: find out where, message by message
        found: list[str | None] = []
        for index, content in enumerate(as_given):
            found.append(self._variant(located, index, content, place, messages))
        try:
            return located(found)
        except Unplaced as error:
            self._refuse(place, messages, error)

    def _variant(
        self,
        located: Callable[[Sequence[str | None]], list[Region]],
        index: int,
        content: str | None,
        place: Place,
        messages: Sequence[Json],
    ) -> str | None:
        """What the template leaves of a message's text; None when that is nothing but white space."""
        refusal: Unplaced | None = None
        for variant in stripped(content or ""):
            try:
                located([variant if i == index else None for i in range(len(messages))])
            except Unplaced as error:
                refusal = error
            else:
                return variant
        if refusal is not None:
            self._refuse(place, messages, refusal)
        return None

    def _run(self, messages: Sequence[Json], tools: list[Json] | None, place: Place, add_prompt: bool) -> str:
        tokens = {"bos_token": self._special.bos, "eos_token": self._special.eos}
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_prompt,
                **{name: token for name, token in tokens.items() if token is not None},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise UserError(
                place,
                f"the tokenizer's chat template refuses the conversation: {error or type(error).__name__}",
                mend=f"change the conversation or {_OTHER_TEMPLATE}",
            ) from None

    def _refuse(self, place: Place, messages: Sequence[Json], error: Unplaced) -> NoReturn:
        which = "a message" if error.message is None else f"the {messages[error.message]['role']} message"
        if error.calls and not error.dropped:
            raise UserError(
                place,
                "where the tokenizer's chat template writes the tool calls cannot be found",
                expected="them after what it writes before every answer, and a stop token after them",
                mend=_OTHER_TEMPLATE,
            )
        if error.calls:
            raise UserError(
                place,
                "the tokenizer's chat template leaves out tool calls, or changes their names",
                mend=f"remove them or {_OTHER_TEMPLATE}",
            )
        if error.dropped:
            raise UserError(
                place, f"the tokenizer's chat template leaves out {which}", mend=f"remove it or {_OTHER_TEMPLATE}"
            )
        construct = _construct_on_content(self._source)
        raise UserError(
            place,
            f"the tokenizer's chat template changes the text of {which}" + (f" by {construct}" if construct else ""),
            expected="every text written once and as it is",
            mend=_OTHER_TEMPLATE,
        )


def _construct_on_content(source: str) -> str:
    """The filter or method, with its line, that a template applies to message text; empty when none is seen."""
    harmless = {"trim", "strip", "lstrip", "rstrip", "startswith", "endswith"}
    for node in (
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
        .parse(source)
        .find_all((nodes.Filter, nodes.Call))
    ):
        if isinstance(node, nodes.Filter):
            name, subject = node.name, node.node
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            name, subject = node.node.attr, node.node.node
        else:
            continue
        if name not in harmless and subject is not None and _mentions_content(subject):
            kind = "the filter" if isinstance(node, nodes.Filter) else "the method"
            return f"{kind} {name} (line {node.lineno})"
    return ""


def _mentions_content(node: nodes.Node) -> bool:
    found = [node, *node.find_all((nodes.Name, nodes.Getattr, nodes.Const))]
    return any(getattr(n, field, None) == "content" for n in found for field in ("name", "attr", "value"))


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it (the conventions of transformers), without a way out of the sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # The filter of Jinja escapes for HTML, which prompts must not be.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment
