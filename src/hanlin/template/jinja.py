"""The renderer of a checkpoint's own chat template.

A chat template returns one string; it does not say which part of it came from a message. To find out, every message is
put between two characters that occur nowhere else, the template is run, and the characters show where each text went.
Without them the result must be the plain rendering, so a template that looks into the text cannot mislead us.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hanlin.errors import UserError
from hanlin.template.parts import SpecialTokens
from hanlin.types import Conversation, Place, Segment

_OTHER_TEMPLATE = "name a template with --template"
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Code points that no standard assigns (Unicode 23.5, plane 15): the marks are taken from here."""

_Json: TypeAlias = dict[str, Any]


class _Region(NamedTuple):
    """A run of rendered text: of message ``message``, or of the template itself (None)."""

    text: str
    message: int | None


class _Unplaced(Exception):  # noqa: N818 - not an error: the answer is another way of marking
    """The marks did not come back as they were set; ``dropped`` when they did not come back at all."""

    def __init__(self, message: int | None, *, dropped: bool = False) -> None:
        self.message = message
        self.dropped = dropped


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
        return list(self._segments(regions, roles, offset))

    def _messages(self, conversation: Conversation) -> tuple[list[_Json], int]:
        """The messages as the template wants them, and how many were put before those of the conversation."""
        messages: list[_Json] = []
        if self.system is not None and not any(m.role == "system" for m in conversation.messages[:1]):
            messages.append({"role": "system", "content": self.system})
        offset = len(messages)
        for index, message in enumerate(conversation.messages):
            if message.images or message.tool_calls:
                kind = "images" if message.images else "tool calls"
                raise UserError(
                    conversation.place, f"messages[{index}] has {kind}, which the chat template cannot be given yet"
                )
            messages.append({"role": message.role, "content": message.content})
        return messages, offset

    def _segments(self, regions: Sequence[_Region], roles: Sequence[str], offset: int) -> Iterator[Segment]:
        """Segments of the regions; an answer takes its lead and its stop from the template text around it."""
        texts = [region.text for region in regions]
        leads, stops = [""] * len(regions), [""] * len(regions)
        for i, (_, message) in enumerate(regions):
            if message is None or roles[message] != "assistant":
                continue
            if i + 1 < len(regions) and regions[i + 1].message is None and (stop := self._stop_in(texts[i + 1])):
                stops[i], texts[i + 1] = stop, texts[i + 1][len(stop) :]
            lead = self._lead or ""
            if lead and i and regions[i - 1].message is None and texts[i - 1].endswith(lead):
                leads[i], texts[i - 1] = lead, texts[i - 1][: -len(lead)]
        for (_, message), text, lead, stop in zip(regions, texts, leads, stops, strict=True):
            if message is None:
                yield from self._split(text)
            elif roles[message] == "assistant":
                yield from self._split(lead, message - offset)
                yield Segment(text, trained=True, message=message - offset)
                yield from self._split(stop, message - offset)
            else:
                yield Segment(text, trained=False)

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
        question: list[_Json] = [{"role": "user", "content": "question"}]
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
        self, messages: Sequence[_Json], tools: list[_Json] | None, place: Place, add_generation_prompt: bool = False
    ) -> list[_Region]:
        """The rendering, cut where each message's text begins and ends. Empty messages have no region."""
        plain = self._run(messages, tools, place, add_generation_prompt)
        taken = {*plain, *(char for message in messages for char in message["content"])}
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        marks = [(next(free), next(free)) for _ in messages]

        def located(contents: Sequence[str | None]) -> list[_Region]:
            """Regions with the texts to mark given; None leaves a message as it is."""
            marked = [
                message if content is None else {**message, "content": open_ + content + close}
                for message, content, (open_, close) in zip(messages, contents, marks, strict=True)
            ]
            rendered = self._run(marked, tools, place, add_generation_prompt)
            return _read_marks(rendered, plain, marks, contents, messages)

        as_given: list[str | None] = [message["content"] or None for message in messages]
        try:
            return located(as_given)
        except _Unplaced:
            pass  # many templates strip white space around a text: find out where, message by message
        found: list[str | None] = []
        for index, content in enumerate(as_given):
            found.append(self._variant(located, index, content, place, messages))
        try:
            return located(found)
        except _Unplaced as error:
            self._refuse(place, messages, error)

    def _variant(
        self,
        located: Callable[[Sequence[str | None]], list[_Region]],
        index: int,
        content: str | None,
        place: Place,
        messages: Sequence[_Json],
    ) -> str | None:
        """What the template leaves of a message's text; None when that is nothing but white space."""
        refusal: _Unplaced | None = None
        for variant in _stripped(content or ""):
            try:
                located([variant if i == index else None for i in range(len(messages))])
            except _Unplaced as error:
                refusal = error
            else:
                return variant
        if refusal is not None:
            self._refuse(place, messages, refusal)
        return None

    def _run(self, messages: Sequence[_Json], tools: list[_Json] | None, place: Place, add_prompt: bool) -> str:
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

    def _refuse(self, place: Place, messages: Sequence[_Json], error: _Unplaced) -> NoReturn:
        which = "a message" if error.message is None else f"the {messages[error.message]['role']} message"
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


def _read_marks(
    rendered: str,
    plain: str,
    marks: Sequence[tuple[str, str]],
    contents: Sequence[str | None],
    messages: Sequence[_Json],
) -> list[_Region]:
    """Cut ``rendered`` at the marks. Raises _Unplaced unless each pair came back around the text that it was put around
    (``contents``, None where there are no marks), and the whole is ``plain``."""
    opens = {pair[0]: index for index, pair in enumerate(marks)}
    closes = {pair[1]: index for index, pair in enumerate(marks)}
    parts = re.split(f"([{''.join(opens)}{''.join(closes)}])", rendered)
    regions: list[_Region] = []
    inside: int | None = None
    seen = [0] * len(marks)
    for part in parts:
        if part in opens and inside is None:
            inside = opens[part]
            seen[inside] += 1
        elif part in closes and inside == closes[part]:
            inside = None
        elif part in opens or part in closes:
            raise _Unplaced(opens.get(part, closes.get(part)))
        elif part:
            if inside is not None and part != contents[inside]:
                raise _Unplaced(inside)
            regions.append(_Region(part, inside))
    if inside is not None:
        raise _Unplaced(inside)
    for index, message in enumerate(messages):
        if contents[index] is not None and not seen[index]:
            raise _Unplaced(index, dropped=True)
        if seen[index] > 1 and message["role"] == "assistant":
            raise _Unplaced(index)
    if "".join(region.text for region in regions) != plain:
        only = [index for index, content in enumerate(contents) if content is not None]
        raise _Unplaced(only[0] if len(only) == 1 else None)
    return regions


def _stripped(text: str) -> list[str]:
    """The ways in which templates strip a text, the gentlest first; none for a text of white space only."""
    newlines = (text, text.lstrip("\n"), text.rstrip("\n"), text.strip("\n"))
    return list(dict.fromkeys((*newlines, text.lstrip(), text.rstrip(), text.strip()))) if text.strip() else []


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
