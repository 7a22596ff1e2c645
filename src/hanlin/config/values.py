"""From the words of a command line, or a value of a YAML file, to the value of a flag."""

from __future__ import annotations

from typing import Any

from hanlin.config.fields import Flag
from hanlin.config.words import EMPTY_VARIABLE
from hanlin.errors import UserError, did_you_mean

MAY_BE_EMPTY = {"system"}
"""Flags whose empty text says something: no system prompt, where leaving the flag out means the template's own."""

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


def from_words(flag: Flag, words: list[str], *, place: str = "") -> Any:
    """The value of ``flag`` given as ``--flag word word``. Raises UserError at ``place`` (as it was spelled)."""
    place = place or f"--{flag.name}"
    if flag.kind == "bool" and not words:
        return True
    if words == [""] and flag.name in MAY_BE_EMPTY:
        return ""
    if not words or words == [""]:
        raise UserError(
            place,
            "has no value",
            expected=_expectation(flag),
            mend=EMPTY_VARIABLE,
        )
    if flag.kind == "list":
        return tuple(part for word in words for part in word.split(",") if part)
    if len(words) > 1:
        raise UserError(place, f"takes one value and got {len(words)}: {' '.join(words)}", expected=_expectation(flag))
    return from_value(flag, words[0], place)


def from_value(flag: Flag, value: Any, place: str) -> Any:
    """The value of ``flag`` from one word or from YAML's own types. Raises UserError at ``place``."""
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null") and flag.optional):
        if flag.optional or value is not None:
            return None
        raise UserError(place, "has no value", expected=_expectation(flag))
    if flag.kind == "list":
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise UserError(place, f"is {value!r}", expected="a list")
        return tuple(str(item) for item in items)
    if flag.kind == "bool":
        return _bool(flag, value, place)
    if flag.kind == "choice":
        return _choice(flag, str(value), place)
    if flag.kind == "str":
        return str(value)
    return _number(flag, value, place)


def _bool(flag: Flag, value: Any, place: str) -> bool:
    text = str(value).lower()
    if text in _TRUE | _FALSE:
        return text in _TRUE
    raise UserError(place, f"is {value!r}", expected="true or false")


def _choice(flag: Flag, value: str, place: str) -> str:
    if value in flag.choices:
        return value
    raise UserError(
        place,
        f"is {value!r}",
        expected=f"one of {', '.join(flag.choices)}",
        mend=did_you_mean(value, flag.choices),
    )


def _number(flag: Flag, value: Any, place: str) -> int | float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if flag.kind == "float":
            return number
        if number != int(number):
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(place, f"is {value!r}", expected=_expectation(flag)) from error


def _expectation(flag: Flag) -> str:
    names = {
        "str": "a text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "choice": f"one of {', '.join(flag.choices)}",
        "list": "one or more values, separated by spaces or commas",
    }
    return names[flag.kind]
