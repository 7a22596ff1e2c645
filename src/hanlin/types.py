"""The values that travel from a file to the model. No torch here.

Legend of shapes used in docstrings: B batch rows, T tokens in a row, D hidden size, V vocabulary rows, H heads,
N trained tokens, R rows of a data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

IGNORE_INDEX = -100
"""Label of a token that is not trained (the ``ignore_index`` of torch's cross entropy)."""

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row came from: ``file:line`` for line formats, ``file[index]`` for arrays and tables."""

    file: str
    line: int | None = None
    """1-based line in the file."""
    index: int | None = None
    """0-based record of a JSON array or a table."""

    def __str__(self) -> str:
        if self.line is not None:
            return f"{self.file}:{self.line}"
        if self.index is not None:
            return f"{self.file}[{self.index}]"
        return self.file


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``weight`` scales its loss; None means the default of its role (assistant 1, others 0)."""

    role: Role
    content: str
    weight: float | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Of an answer: calls as OpenAI writes them, ``{"type": "function", "function": {"name", "arguments"}}``."""
    tool_call_id: str | None = None
    """Of a tool message: the id of the call that it answers."""
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """The one internal form of instruction data; every row format is a reader of it."""

    messages: tuple[Message, ...]
    place: Place
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of plain text for pre-training or for training a tokenizer."""

    text: str
    place: Place


class Segment(NamedTuple):
    """A run of rendered text. ``special`` text is exactly one special token; other text can never become one.

    ``trained`` marks what the model itself must write: an answer and its stop token. ``message`` is then the index of
    that answer in its conversation (None for all other text), so that one answer of several can be left untrained.
    ``image`` says that the text is the path of a picture, which takes the places of one (``tokens.images``).
    """

    text: str
    trained: bool
    special: bool = False
    message: int | None = None
    image: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and labels of one row, equally long; ``labels`` holds the id where trained, else IGNORE_INDEX.

    ``turn_ends`` are the positions (exclusive) at which a whole turn ends, its stop token included: the places where
    a row can be cut without cutting an answer.
    """

    ids: list[int]
    labels: list[int]
    turn_ends: tuple[int, ...] = ()
    stop_lengths: tuple[int, ...] | None = None
    """Tokens of the stop that closes each turn, 0 where the template writes none between turns. None: one each."""
    images: tuple[tuple[int, int], ...] = ()
    """Start and end (exclusive) of each picture, which is whole or not there."""

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels), "ids and labels come from one pass and are equally long"

    @property
    def num_trained(self) -> int:
        """Number of trained tokens."""
        return sum(label != IGNORE_INDEX for label in self.labels)
