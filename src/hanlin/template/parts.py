"""Parts of a template cut at their slots and special tokens, for a tokenizer, and filled with the texts of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hanlin.errors import UserError
from hanlin.template.form import Template, marks_in
from hanlin.types import Segment


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a tokenizer, as text; None where it has none."""

    bos: str | None
    eos: str | None
    all: tuple[str, ...] = ()
    """Every special or added token, the two above among them: what a checkpoint's own template may write."""
    pieces: Sequence[str] = ()
    """Every token by its id, for templates that write tokens by number; empty where that is not known."""


class Piece(NamedTuple):
    """A run of a template's part: ordinary text, one special token by its name, or a slot by its name."""

    kind: Literal["text", "special", "slot"]
    text: str


Part = tuple[Piece, ...]
Value = str | Sequence[Segment]
"""What a slot stands for: text, which is searched for nothing, or segments."""


class Cutter:
    """Cuts the parts of one template for one tokenizer."""

    def __init__(self, template: Template, special: SpecialTokens, place: str) -> None:
        """Raises UserError at ``place`` when the tokenizer lacks a token that the template writes."""
        self._template = template
        self._special = special
        self._place = place
        self._check_tokens()
        # Other special tokens that a part happens to spell are tokens too, as the tokenizers of 2023 read them.
        self._marks = marks_in((*template.tokens, *(token for token in special.all if not _is_blank(token))))
        self._cut: dict[str, Part] = {}

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every special token in the parts cut so far."""
        return tuple(dict.fromkeys(text for part in self._cut.values() for kind, text in part if kind == "special"))

    def cut(self, part: str) -> Part:
        """The pieces of ``part``. Raises UserError when it writes a token that the tokenizer does not have."""
        if part not in self._cut:
            self._cut[part] = self._pieces(part)
        return self._cut[part]

    def _pieces(self, part: str) -> Part:
        pieces: list[Piece] = []
        start = 0
        for match in self._marks.finditer(part):
            if match.start() > start:
                pieces.append(Piece("text", part[start : match.start()]))
            start = match.end()
            slot, number, name = match.groups()
            if slot in ("bos", "eos"):
                token = self._special.bos if slot == "bos" else self._special.eos
                if token is not None:  # a tokenizer without BOS starts without it
                    pieces.append(Piece("special", token))
            elif slot is not None:
                pieces.append(Piece("slot", slot))
            elif number is not None:
                pieces.append(Piece("special", self._numbered(int(number), name)))
            else:
                pieces.append(Piece("special", match.group()))
        if start < len(part):
            pieces.append(Piece("text", part[start:]))
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
            f"template {self._template.name} writes {what}: it does not suit this tokenizer{why}",
            expected=f"the tokenizer of {self._template.family}",
            mend="name another template",
        )


def fill(part: Part, values: Mapping[str, Value] | None = None, *, answer: int | None = None) -> list[Segment]:
    """The pieces as segments, slots by their values; trained where they belong to the message ``answer``."""
    segments: list[Segment] = []
    for kind, text in part:
        value: Value = (values or {})[text] if kind == "slot" else text
        if isinstance(value, str):
            segments.append(Segment(value, trained=answer is not None, special=kind == "special", message=answer))
        else:
            segments += value
    return segments


def _is_blank(token: str) -> bool:
    """Whether a token is white space alone: some vocabularies call line breaks added tokens."""
    return not token.strip(" \n\t\r\u2581\u0120\u010a")
