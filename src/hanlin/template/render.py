"""From a conversation to segments: what is a renderer, and the renderer of the named templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from hanlin.errors import UserError
from hanlin.template.form import Template, marks_in
from hanlin.types import Conversation, Segment


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a tokenizer, as text; None where it has none."""

    bos: str | None
    eos: str | None
    all: tuple[str, ...] = ()
    """Every special or added token, the two above among them: what a checkpoint's own template may write."""
    pieces: Sequence[str] = ()
    """Every token by its id, for templates that write tokens by number; empty where that is not known."""


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

        An assistant message gives segments with ``trained`` true and ``message`` its index: its text and the stop.
        With ``add_generation_prompt`` the last message is no answer, and the segments end where the answer starts:
        they are then a prefix of the segments of the same conversation with its answer. Raises UserError, with the
        conversation's place, when a message has no place in the template.
        """


_Mark = Literal["text", "special", "slot"]


class _Piece(NamedTuple):
    """A run of a template's part: ordinary text, one special token by its name, or a slot by its name."""

    kind: _Mark
    text: str


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
        self._special = special
        self._place = place
        self._check_tokens()
        # Other special tokens that a part happens to spell are tokens too, as the tokenizers of 2023 read them.
        self._marks = marks_in((*template.tokens, *(token for token in special.all if not _is_blank(token))))
        self._header = self._pieces(template.header)
        self._bare_header = self._pieces(template.header if template.bare_header is None else template.bare_header)
        self._prompt = self._pieces(template.prompt)
        self._suffix = self._pieces(template.suffix)
        inner = template.suffix if template.inner_suffix is None else template.inner_suffix
        self._inner_suffix = self._pieces(inner)
        self._separator = self._pieces(template.separator or "")
        stops = [text for kind, text in self._suffix if kind == "special"]
        self.stop: tuple[str, ...] = tuple(dict.fromkeys((*stops, *template.stop)))

    @property
    def tokens(self) -> tuple[str, ...]:
        """See ``Renderer.tokens``."""
        parts = (self._header, self._bare_header, self._prompt, self._inner_suffix, self._suffix, self._separator)
        return tuple(dict.fromkeys(text for part in parts for kind, text in part if kind == "special"))

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> list[Segment]:
        """See ``Renderer.render``. Wants one optional system message, then user and assistant in turn."""
        system, turns = self._turns(conversation, add_generation_prompt)
        messages = conversation.messages
        segments = self._fill(self._header if system else self._bare_header, {"system": system})
        for number, user in enumerate(turns):
            if number:
                segments += self._fill(self._separator)
            segments += self._fill(self._prompt, {"user": messages[user].content, "round": str(number + 1)})
            answer = user + 1
            if answer < len(messages):
                suffix = self._suffix if answer + 1 == len(messages) else self._inner_suffix
                segments.append(Segment(messages[answer].content, trained=True, message=answer))
                segments += self._fill(suffix, answer=answer)
        return segments

    def _fill(
        self, pieces: Sequence[_Piece], values: Mapping[str, str] | None = None, *, answer: int | None = None
    ) -> list[Segment]:
        """The pieces as segments, slots by their values. A value is text and is searched for nothing."""
        return [
            Segment(
                (values or {})[text] if kind == "slot" else text,
                trained=answer is not None,
                special=kind == "special",
                message=answer,
            )
            for kind, text in pieces
        ]

    def _pieces(self, part: str) -> tuple[_Piece, ...]:
        """A part of the template, cut at its slots and special tokens."""
        pieces: list[_Piece] = []
        start = 0
        for match in self._marks.finditer(part):
            if match.start() > start:
                pieces.append(_Piece("text", part[start : match.start()]))
            start = match.end()
            slot, number, name = match.groups()
            if slot in ("bos", "eos"):
                token = self._special.bos if slot == "bos" else self._special.eos
                if token is not None:  # a tokenizer without BOS starts without it
                    pieces.append(_Piece("special", token))
            elif slot is not None:
                pieces.append(_Piece("slot", slot))
            elif number is not None:
                pieces.append(_Piece("special", self._numbered(int(number), name)))
            else:
                pieces.append(_Piece("special", match.group()))
        if start < len(part):
            pieces.append(_Piece("text", part[start:]))
        return tuple(pieces)

    def _numbered(self, number: int, name: str | None) -> str:
        """The token called ``name``, else the one with ``number``, by its name in this tokenizer."""
        pieces = self._special.pieces
        found = pieces[number] if number < len(pieces) else ""
        if name is not None and found != name:
            # An extended vocabulary may have moved it; an ordinary piece that is spelled so is another token.
            found = name if name in self._special.all else ""
        if not found:
            wanted = f"{name} (token {number:,})" if name else f"token {number:,}"
            raise self._lacks(wanted, f", which has {len(pieces):,} tokens" if number >= len(pieces) else "")
        return found

    def _check_tokens(self) -> None:
        template, special = self._template, self._special
        if special.eos is None and "{eos}" in template.suffix:
            raise self._lacks("an EOS token after an answer", ", which has none")
        known = {*special.all, *special.pieces}
        missing = [token for token in template.tokens if token not in known]
        if known and missing:
            raise self._lacks(", ".join(missing), ", which does not have " + ("it" if len(missing) == 1 else "them"))

    def _lacks(self, what: str, why: str) -> UserError:
        return UserError(
            self._place,
            f"template {self.name} writes {what}: it does not suit this tokenizer{why}",
            expected=f"the tokenizer of {self._template.family}",
            mend="name another template",
        )

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
        turns = list(range(first, len(messages), 2))
        if len(turns) > 1 and self._template.separator is None:
            raise self._misfit(conversation, f"there are {len(turns)} questions", "one, as it writes a single turn")
        return system, turns

    def _misfit(self, conversation: Conversation, problem: str, expected: str = "") -> UserError:
        return UserError(conversation.place, f"template {self.name}: {problem}", expected=expected)


def _is_blank(token: str) -> bool:
    """Whether a token is white space alone: some vocabularies call line breaks added tokens."""
    return not token.strip(" \n\t\r\u2581\u0120\u010a")
