"""From a conversation to segments: what is a renderer, and the renderer of the named templates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from hanlin.errors import UserError
from hanlin.template.catalog import Part, Template, Token
from hanlin.types import Conversation, Segment


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a tokenizer, as text; None where it has none."""

    bos: str | None
    eos: str | None
    all: tuple[str, ...] = ()
    """Every special or added token, the two above among them: what a checkpoint's own template may write."""


class Renderer(Protocol):
    """Writes a conversation as segments: text apart from special tokens, answers and their stop apart from the rest."""

    @property
    def name(self) -> str:
        """Name of the template, ``chat_template`` for the tokenizer's own."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Special tokens, then strings, at which generation must stop; the first is the one that training teaches."""

    @property
    def system(self) -> str | None:
        """System text of a conversation that brings none; None leaves it to the checkpoint's template."""

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """The segments of ``conversation``, in order.

        An assistant message gives segments with ``trained`` true and ``message`` its index: its text and the stop.
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
        has no place for it, or when its stop is a special token that the tokenizer lacks."""
        if system and not template.has_system_slot:
            raise UserError(place, f"template {template.name} has no place for a system text", mend="remove --system")
        self.name = template.name
        self.system = template.system if system is None else system
        self._template = template
        self._tokens = {Token.BOS: special.bos, Token.EOS: special.eos}
        stops = [self._tokens[part] for part in template.suffix if isinstance(part, Token)]
        if None in stops:
            raise UserError(
                place,
                f"template {template.name} ends an answer with the EOS token, which this tokenizer does not have",
                mend="choose a tokenizer with an EOS token",
            )
        self.stop: tuple[str, ...] = (*(stop for stop in stops if stop), *template.stop)

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """See ``Renderer.render``. Wants one optional system message, then user and assistant in turn."""
        template = self._template
        system, turns = self._turns(conversation, add_generation_prompt)
        header = template.header if system or not template.has_system_slot else template.bare_header
        segments = self._fill(header, "{system}", system)
        for number, user in enumerate(turns):
            messages = conversation.messages
            if number:
                segments += self._fill(template.separator)
            segments += self._fill(template.prompt, "{user}", messages[user].content)
            answer = user + 1
            if answer < len(messages):
                segments.append(Segment(messages[answer].content, trained=True, message=answer))
                segments += self._fill(template.suffix, trained=True, message=answer)
        return segments

    def _fill(
        self,
        parts: Iterable[Part],
        slot: str = "",
        value: str = "",
        *,
        trained: bool = False,
        message: int | None = None,
    ) -> list[Segment]:
        """The parts as segments, ``value`` in the place of ``slot``. The value itself is not searched for slots."""
        segments = []
        for part in parts:
            if isinstance(part, Token):
                token = self._tokens[part]
                if token is not None:  # a tokenizer without BOS starts without it
                    segments.append(Segment(token, trained, special=True, message=message))
            else:
                text = part.replace(slot, value) if slot else part
                segments.append(Segment(text, trained, message=message))
        return segments

    def _turns(self, conversation: Conversation, add_generation_prompt: bool) -> tuple[str, list[int]]:
        """The system text and the indices of the user messages; refuses what the template cannot write."""
        messages = conversation.messages
        system, first = self.system, 0
        if messages and messages[0].role == "system":
            system, first = messages[0].content, 1
            if system and not self._template.has_system_slot:
                raise self._misfit(conversation, "messages[0] is a system text, for which it has no place")
        if conversation.tools:
            raise self._misfit(conversation, "there are tools, for which it has no place")
        for index in range(first, len(messages)):
            message = messages[index]
            if message.images or message.tool_calls:
                kind = "images" if message.images else "tool calls"
                raise self._misfit(conversation, f"messages[{index}] has {kind}, for which it has no place")
            expected = "assistant" if (index - first) % 2 else "user"
            if message.role != expected:
                raise self._misfit(
                    conversation,
                    f"messages[{index}].role is {message.role!r}",
                    f"{expected!r}: an optional system message, then user and assistant in turn",
                )
        last = messages[-1].role if messages else None
        wanted = "user" if add_generation_prompt else "assistant"
        if last != wanted:
            problem = f"the last message is of {last!r}" if messages else "there is no message"
            purpose = "before the answer to be written" if add_generation_prompt else "so that an answer can be trained"
            raise self._misfit(conversation, problem, f"{wanted!r} last, {purpose}")
        return system, list(range(first, len(messages), 2))

    def _misfit(self, conversation: Conversation, problem: str, expected: str = "") -> UserError:
        return UserError(conversation.place, f"template {self.name}: {problem}", expected=expected)
