"""Marks around the texts that a chat template is given, and where they come back in what it writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from hanlin.template.tools import to_json

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Code points that no standard assigns (Unicode 23.5, plane 15): the marks are taken from here."""

Json: TypeAlias = dict[str, Any]


class Region(NamedTuple):
    """A run of rendered text: of message ``message``, or of the template itself (None)."""

    text: str
    message: int | None
    given: bool = False
    """Whether it comes from the row, so that it is ordinary text whatever it spells."""


class Marks(NamedTuple):
    """A pair of characters that stands around text; ``message`` is None for the list of tools."""

    open: str
    close: str
    message: int | None
    calls: bool = False


class Unplaced(Exception):  # noqa: N818 - not an error: the answer is another way of marking
    """The marks did not come back as they were set; ``dropped`` when they did not come back at all."""

    def __init__(self, message: int | None, *, dropped: bool = False, calls: bool = False) -> None:
        self.message = message
        self.dropped = dropped
        self.calls = calls


class Arguments(dict[str, Any]):
    """Arguments of a call: an object for templates that look into it, JSON for those that want text."""

    def __str__(self) -> str:
        return to_json(self)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def free_characters(taken: Iterable[str]) -> Iterator[str]:
    """Characters for marks, none of them in ``taken``."""
    known = set(taken)
    return (chr(code) for code in _PRIVATE_USE if chr(code) not in known)


def marked_call(call: Json, marks: Marks, tokens: re.Pattern[str]) -> Json:
    """A call with its name marked, as every template writes it, and what in the arguments spells one of ``tokens``."""
    function = call["function"]
    arguments = Arguments(marked_texts(function["arguments"], marks, tokens))
    name = marks.open + function["name"] + marks.close
    return {**call, "function": {"name": name, "arguments": arguments}}


def marked_texts(value: Any, marks: Marks, tokens: re.Pattern[str]) -> Any:
    """``value`` with marks around each text in it, keys too, that spells one of ``tokens``. Others stay as they are, as
    templates may compare them."""
    if isinstance(value, str):
        return marks.open + value + marks.close if tokens.search(value) else value
    if isinstance(value, Mapping):
        pairs = value.items()
        return {marked_texts(key, marks, tokens): marked_texts(item, marks, tokens) for key, item in pairs}
    return [marked_texts(item, marks, tokens) for item in value] if isinstance(value, list | tuple) else value


def read_marks(
    rendered: str,
    plain: str,
    marks: Sequence[Marks],
    contents: Sequence[str | None],
    messages: Sequence[Json],
) -> list[Region]:
    """Cut ``rendered`` at the marks. Raises Unplaced unless each pair came back around the text that it was put around
    (``contents``, None where there are no marks), and the whole is ``plain``."""
    opens = {mark.open: mark for mark in marks}
    closes = {mark.close: mark for mark in marks}
    parts = re.split(f"([{''.join(opens)}{''.join(closes)}])", rendered)
    regions: list[Region] = []
    inside: Marks | None = None
    seen = Counter[Marks]()
    for part in parts:
        if part in opens and inside is None:
            inside = opens[part]
            seen[inside] += not inside.calls
        elif part in closes and inside == closes[part]:
            inside = None
        elif part in opens or part in closes:
            wrong = opens.get(part) or closes[part]
            raise Unplaced(wrong.message, calls=wrong.calls)
        elif part:
            if inside is not None and inside.message is not None:
                message = messages[inside.message]
                if inside.calls:
                    seen[inside] += part in (call["function"]["name"] for call in message["tool_calls"])
                else:
                    _check_part(part, contents[inside.message], message["role"], inside.message)
            regions.append(Region(part, inside.message if inside else None, given=inside is not None))
    if inside is not None:
        raise Unplaced(inside.message, calls=inside.calls)
    for mark in marks:
        if mark.message is None:
            continue
        message = messages[mark.message]
        wanted = len(message.get("tool_calls", [])) if mark.calls else int(contents[mark.message] is not None)
        if seen[mark] < wanted:
            raise Unplaced(mark.message, dropped=True, calls=mark.calls)
        if seen[mark] > 1 and message["role"] == "assistant" and not mark.calls:
            raise Unplaced(mark.message)
    if "".join(region.text for region in regions) != plain:
        only = [index for index, content in enumerate(contents) if content is not None]
        raise Unplaced(only[0] if len(only) == 1 else None)
    return regions


def _check_part(part: str, content: str | None, role: str, message: int) -> None:
    """Raises Unplaced when a message's text is not what was given; some templates write results as JSON strings."""
    if part != content and (role != "tool" or part != to_json(content)[1:-1]):
        raise Unplaced(message)


def stripped(text: str) -> list[str]:
    """The ways in which templates strip a text, the gentlest first; none for a text of white space only."""
    newlines = (text, text.lstrip("\n"), text.rstrip("\n"), text.strip("\n"))
    return list(dict.fromkeys((*newlines, text.lstrip(), text.rstrip(), text.strip()))) if text.strip() else []
