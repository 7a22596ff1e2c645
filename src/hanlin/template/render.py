"""From a conversation to segments: what is a renderer, and the renderer of the named templates."""

from __future__ import annotations

from typing import Protocol

from hanlin.errors import UserError
from hanlin.template.form import Template
from hanlin.template.parts import Cutter, SpecialTokens, fill
from hanlin.template.tools import ToolWriter
from hanlin.types import Conversation, Message, Segment


class Renderer(Protocol):
    """Writes a conversation as segments: text apart from special tokens, answers and their stop apart from the rest."""

    @property
    def name(self) -> str:
        """Name of the template, ``chat_template`` for the tokenizer's own."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Special tokens, then strings, at which generation must stop; the first is the one that training teaches."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Special tokens that it writes whatever the tokenizer calls special: text must never become one of them."""

    @property
    def system(self) -> str | None:
        """System text of a conversation that brings none; None leaves it to the checkpoint's template."""

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """The segments of ``conversation``, in order.

        An assistant message gives segments with ``trained`` true and ``message`` its index: its text, its tool calls
        and the stop.
        With ``add_generation_prompt`` the last message is no answer, and the segments end where the answer starts:
        they are then a prefix of the segments of the same conversation with its answer. Raises UserError, with the
        conversation's place, when a message has no place in the template.
        """


class TemplateRenderer:
    """Renders with a named template."""

    def __init__(
        self, template: Template, special: SpecialTokens, *, system: str | None = None, place: str = "--template"
    ) -> None:
        """``system`` replaces the template's default system text. Raises UserError at ``place`` when the template
        has no place for it, and when the tokenizer lacks a token that the template writes."""
        if system and not template.has_system_slot:
            raise UserError(place, f"template {template.name} has no place for a system text", mend="remove --system")
        self.name = template.name
        self.system = template.system if system is None else system
        self._template = template
        cutter = Cutter(template, special, place)
        self._header = cutter.cut(template.header)
        self._bare_header = cutter.cut(template.header if template.bare_header is None else template.bare_header)
        self._prompt = cutter.cut(template.prompt)
        self._last_prompt = None if template.last_prompt is None else cutter.cut(template.last_prompt)
        self._empty_thought = cutter.cut(template.empty_thought)
        self._suffix = cutter.cut(template.suffix)
        self._inner_suffix = cutter.cut(template.suffix if template.inner_suffix is None else template.inner_suffix)
        self._separator = cutter.cut(template.separator or "")
        self._tools = None if template.tools is None else ToolWriter(template, template.tools, cutter)
        self.tokens: tuple[str, ...] = cutter.tokens
        stops = (
            *(text for kind, text in self._suffix if kind == "special"),
            *(self._tools.stops if self._tools else ()),
        )
        self.stop: tuple[str, ...] = tuple(dict.fromkeys((*stops, *template.stop)))

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """See ``Renderer.render``. Wants one optional system message, then user and assistant in turn; where the
        template writes tools, an assistant message with calls is followed by tool messages and the next answer."""
        system, first = self._check(conversation, add_generation_prompt)
        messages, place = conversation.messages, conversation.place
        writer = self._tools if conversation.tools else None
        if writer:
            segments = writer.header(system, conversation.tools, place)
        else:
            segments = fill(self._header if system else self._bare_header, {"system": system})
        last_question = max(index for index, message in enumerate(messages) if message.role == "user")
        num_questions = 0
        results: list[Message] = []
        for index in range(first, len(messages)):
            message = messages[index]
            if index > first and messages[index - 1].role == "assistant":
                segments += fill(self._separator)
            if message.role == "user":
                num_questions += 1
                values = {"user": message.content, "round": str(num_questions)}
                if writer:
                    segments += writer.prompt(values, conversation.tools, place)
                elif self._last_prompt and system and index == last_question:
                    segments += fill(self._last_prompt, {**values, "system": system})
                else:
                    segments += fill(self._prompt, values)
            elif message.role == "tool":
                results.append(message)
                if self._tools and (index + 1 == len(messages) or messages[index + 1].role != "tool"):
                    segments += self._tools.results(results)
                    results = []
            else:
                if index + 1 == len(messages):
                    segments += fill(self._empty_thought)
                answer = self._answer(conversation, index)
                rewritten = index < last_question and self._last_prompt and system
                if rewritten or (self._empty_thought and index + 1 < len(messages)):
                    # When the model wrote it, something else stood before it: it would learn what it never meets.
                    answer = [segment._replace(trained=False) for segment in answer]
                segments += answer
        return segments + (fill(self._empty_thought) if add_generation_prompt else [])

    def _answer(self, conversation: Conversation, index: int) -> list[Segment]:
        """The segments of the answer ``index`` with what closes it."""
        message = conversation.messages[index]
        part = self._suffix if index + 1 == len(conversation.messages) else self._inner_suffix
        suffix = fill(part, answer=index)
        listed = bool(conversation.tools)
        if self._tools and message.tool_calls:
            calls = self._tools.calls(message, index, listed=listed, place=conversation.place)
            return calls + (self._tools.call_suffix(index) or suffix)
        if self._tools and listed:
            return self._tools.text(message.content, index) + suffix
        return [Segment(message.content, trained=True, message=index), *suffix]

    def _check(self, conversation: Conversation, add_generation_prompt: bool) -> tuple[str, int]:
        """The system text and the index of the first question; refuses what the template cannot write."""
        messages, writes_tools = conversation.messages, self._tools is not None
        system, first = self.system, 0
        if messages and messages[0].role == "system":
            system, first = messages[0].content, 1
            if system and not self._template.has_system_slot:
                raise self._misfit(conversation, "messages[0] is a system text, for which it has no place")
        if conversation.tools and not writes_tools:
            raise self._misfit(conversation, "there are tools, for which it has no place")
        before: Message | None = None
        for index in range(first, len(messages)):
            message = messages[index]
            if message.images or (message.tool_calls and not (writes_tools and message.role == "assistant")):
                kind = "images" if message.images else "tool calls"
                raise self._misfit(conversation, f"messages[{index}] has {kind}, for which it has no place")
            expected = _roles_after(before)
            if message.role not in expected or (message.role == "tool" and not writes_tools):
                order = ", tools answering calls" if writes_tools else ""
                raise self._misfit(
                    conversation,
                    f"messages[{index}].role is {message.role!r}",
                    f"{' or '.join(map(repr, expected))}: an optional system message, then user and assistant in turn"
                    + order,
                )
            thought = next((word for word in self._template.empty_thought.split() if word in message.content), None)
            if message.role == "assistant" and thought is not None:
                raise self._misfit(conversation, f"messages[{index}] holds {thought}", "answers without thinking")
            before = message
        last = messages[-1].role if messages else None
        wanted = ("user", "tool") if add_generation_prompt else ("assistant",)
        if last not in wanted:
            problem = f"the last message is of {last!r}" if messages else "there is no message"
            purpose = "before the answer to be written" if add_generation_prompt else "so that an answer can be trained"
            raise self._misfit(conversation, problem, f"{wanted[0]!r} last, {purpose}")
        num_questions = sum(message.role == "user" for message in messages)
        if num_questions > 1 and self._template.separator is None:
            raise self._misfit(conversation, f"there are {num_questions} questions", "one, as it writes a single turn")
        return system, first

    def _misfit(self, conversation: Conversation, problem: str, expected: str = "") -> UserError:
        return UserError(conversation.place, f"template {self.name}: {problem}", expected=expected)


def _roles_after(message: Message | None) -> tuple[str, ...]:
    """The roles that may follow ``message``, None at the start."""
    if message is None:
        return ("user",)
    if message.role == "assistant":
        return ("tool",) if message.tool_calls else ("user",)
    return ("assistant", "tool") if message.role == "tool" else ("assistant",)
