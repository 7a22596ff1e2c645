"""What can be wrong with one row: the reasons that the ledger counts by, and the exception that carries one."""

from __future__ import annotations

import json
from typing import Any

MALFORMED_JSON = "malformed JSON"
NOT_AN_OBJECT = "not an object"
MISSING_FIELD = "missing field"
WRONG_TYPE = "wrong type"
NOT_UNICODE = "not Unicode text"
EMPTY_DOCUMENT = "empty document"
EMPTY_INSTRUCTION = "empty instruction"
EMPTY_ANSWER = "empty answer"
UNKNOWN_ROLE = "unknown role"
WRONG_ROLE_ORDER = "wrong role order"
NOT_ONLY_TEXT = "not only text"

_SHOWN_CHARACTERS = 60


class RowFault(Exception):  # noqa: N818 (a fault of the data, not an error of the program)
    """One row cannot be used as it is. ``detail`` reads like an error line: value, expectation, mend."""

    def __init__(self, reason: str, problem: str, *, expected: str = "", mend: str = "") -> None:
        self.reason = reason
        parts = [problem, f"expected {expected}" if expected else "", mend]
        self.detail = "; ".join(part for part in parts if part)
        super().__init__(f"{reason}: {self.detail}")


def shown(value: object) -> str:
    """``value`` as it would stand in a JSON file, cut to a length that fits into one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    # A lone surrogate is legal in a Python string and in JSON, but no terminal and no UTF-8 file can hold it.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def excerpt(text: str, position: int) -> str:
    """What stands around ``position`` of a broken text, for people to find it by."""
    near = text[max(position - 12, 0) : position + 12]
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in near) + "'"


def require_text(value: Any, field: str) -> str:
    """``value`` unchanged when it is text that UTF-8 can hold; raises RowFault otherwise."""
    if not isinstance(value, str):
        raise RowFault(
            WRONG_TYPE,
            f"{field} is {shown(value)}",
            expected="text",
            mend="write the text" if value is None else "put it in quotes or convert it to text",
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowFault(
                NOT_UNICODE,
                f"{field} holds half of a surrogate pair, \\u{ord(value[error.start]):04x}, at character {error.start}",
                expected="whole characters",
                mend="write the character itself or both halves of its escape",
            ) from None
    return value


def listed(names: Any, most: int = 8) -> str:
    """The first names of a collection, for one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
