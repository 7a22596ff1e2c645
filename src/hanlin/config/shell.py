"""What a shell script consists of, as far as its mistakes need to be told: words, commands, faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something in a script that will not do what was meant. A note does no harm."""

    line: int
    """1-based line."""
    text: str
    """What stands there."""
    why: str
    mend: str = ""
    is_note: bool = False

    def __str__(self) -> str:
        note = "note: " if self.is_note else ""
        return f"{self.line}: {note}{self.text}: {self.why}" + (f"; {self.mend}" if self.mend else "")


class Variable(NamedTuple):
    """``$name``, ``${name}`` or ``${name:-default}``."""

    name: str
    optional: bool
    """A default is written with it."""
    line: int


class Opaque(NamedTuple):
    """Text that only running would give, such as ``$(date)``."""

    text: str


Part = str | Variable | Opaque


@dataclass(slots=True)
class Word:
    """One word: literal text, with quotes taken off, and variables."""

    line: int
    parts: list[Part] = field(default_factory=list)
    quoted: bool = False
    raw_start: str = ""
    """The text in front of the first quote or variable: where ``name=`` of an assignment stands."""

    @property
    def text(self) -> str:
        """As it was written, without quotes."""
        return "".join(f"${{{p.name}}}" if isinstance(p, Variable) else _literal(p) for p in self.parts)

    @property
    def variables(self) -> list[Variable]:
        """Variables in it."""
        return [part for part in self.parts if isinstance(part, Variable)]

    def expand(self, values: Mapping[str, str | None]) -> str | None:
        """Its value with ``values`` for the variables; None where one is unknown."""
        found = []
        for part in self.parts:
            value = values.get(part.name) if isinstance(part, Variable) else part if isinstance(part, str) else None
            if value is None:
                return None
            found.append(value)
        return "".join(found)


def _literal(part: str | Opaque) -> str:
    return part.text if isinstance(part, Opaque) else part


@dataclass(slots=True)
class Command:
    """One simple command."""

    words: list[Word]
    end: int
    """1-based line on which it ends."""
    ended_by: Literal["line", "blank line", "comment", "operator"]
    """An empty line or a comment ends a command although the line above has a backslash."""

    @property
    def line(self) -> int:
        """1-based line of its first word."""
        return self.words[0].line
