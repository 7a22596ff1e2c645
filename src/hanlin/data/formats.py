"""Formats of conversations in a row. A format is one entry here: its name, its keys, its reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.data.faults import (
    EMPTY_ANSWER,
    EMPTY_INSTRUCTION,
    MISSING_FIELD,
    NOT_ONLY_TEXT,
    UNKNOWN_ROLE,
    WRONG_ROLE_ORDER,
    WRONG_TYPE,
    RowFault,
    listed,
    require_text,
    shown,
)
from hanlin.registry import Registry
from hanlin.types import ROLES, Conversation, Message, Place, Role

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How one kind of row is told from the others and read."""

    name: str
    keys: tuple[str, ...]
    """A row with one of these keys is of this format. The first format of the table that says so is taken."""
    columns: tuple[str, ...]
    """Every key that the reader looks at."""
    read: Callable[[Raw, Place], Conversation]
    """Raises RowFault for a row that cannot be used."""


MEDIA_KEYS = ("images", "videos", "audios")
"""Keys of rows that are not only text, in every format."""

FORMATS: Registry[RowFormat] = Registry("format")


def detect_format(keys: Sequence[str]) -> RowFormat | None:
    """The format of a row with these keys, or None."""
    return next((f for f in FORMATS.values() if any(key in keys for key in f.keys)), None)


def known_keys() -> str:
    """What a row may look like, for messages."""
    return " or ".join(f"{' and '.join(f.keys)} ({f.name})" for f in FORMATS.values())


def read_row(row: Raw, place: Place, row_format: RowFormat) -> Conversation:
    """The conversation of one row; raises RowFault when it cannot be used."""
    for key in MEDIA_KEYS:
        if row.get(key):  # trained without its picture, the row would teach the model to invent what it shows
            raise RowFault(
                NOT_ONLY_TEXT, f"the row has {key}: {shown(row[key])}", expected="text alone", mend="remove the row"
            )
    return row_format.read(row, place)


def _field(row: Raw, name: str) -> Any:
    if name not in row:
        raise RowFault(
            MISSING_FIELD,
            f"the row has no field {name}, only {listed(row) or 'none'}",
            expected=name,
            mend="add or rename the field",
        )
    return row[name]


def _optional_text(row: Raw, name: str) -> str:
    """The text of a field; an absent or null field reads as empty text."""
    value = row.get(name)
    return "" if value is None else require_text(value, name)


def _question(text: str, field: str) -> Message:
    if not text or text.isspace():
        raise RowFault(
            EMPTY_INSTRUCTION, f"{field} is empty", expected="a question or a task", mend="write it or remove the row"
        )
    return Message("user", text)


def _answer(text: str, field: str) -> Message:
    if not text or text.isspace():
        raise RowFault(EMPTY_ANSWER, f"{field} is empty", expected="an answer", mend="write it or remove the row")
    return Message("assistant", text)


# --- Stanford Alpaca -------------------------------------------------------------------------------------------------


def read_alpaca(row: Raw, place: Place) -> Conversation:
    """``instruction``, ``input``, ``output``; optional ``system`` and ``history`` of [question, answer] pairs.

    An ``input`` that is neither absent, null nor empty is joined to the instruction by one line break.
    """
    instruction = require_text(_field(row, "instruction"), "instruction")
    _question(instruction, "instruction")
    given = _optional_text(row, "input")
    output = require_text(_field(row, "output"), "output")
    system = _optional_text(row, "system")
    messages = [Message("system", system)] if system else []
    messages += _history(row.get("history"))
    messages.append(_question(f"{instruction}\n{given}" if given else instruction, "instruction"))
    messages.append(_answer(output, "output"))
    return Conversation(tuple(messages), place)


def _history(value: Any) -> list[Message]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowFault(WRONG_TYPE, f"history is {shown(value)}", expected="a list of [question, answer] pairs")
    messages = []
    for number, pair in enumerate(value):
        name = f"history[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowFault(WRONG_TYPE, f"{name} is {shown(pair)}", expected="a pair [question, answer]")
        messages.append(_question(require_text(pair[0], f"{name}[0]"), f"{name}[0]"))
        messages.append(_answer(require_text(pair[1], f"{name}[1]"), f"{name}[1]"))
    return messages


# --- OpenAI messages -------------------------------------------------------------------------------------------------

_OTHER_ROLE_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "developer": "system",
}
"""Names of other formats, by the role that they mean; only for the mend."""

_MAY_FOLLOW: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may follow a role; None is the start."""


def read_messages(row: Raw, place: Place) -> Conversation:
    """``messages``, each with ``role`` and ``content``; optional ``tools``, ``tool_calls`` and ``weight``.

    The order is [system] user assistant [user assistant …], with calls answered by tool messages before the next
    answer; the last message is an answer. The content of an assistant message with ``tool_calls`` may be null or empty.
    """
    raw = _field(row, "messages")
    if not isinstance(raw, list) or not raw:
        raise RowFault(WRONG_TYPE, f"messages is {shown(raw)}", expected="a list of messages")
    messages = tuple(_message(value, f"messages[{number}]") for number, value in enumerate(raw))
    _check_order(messages)
    return Conversation(messages, place, tools=_objects(row.get("tools"), "tools"))


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault(WRONG_TYPE, f"{name} is {shown(value)}", expected="an object with role and content")
    for key in ("role", "content"):
        if key not in value and not (key == "content" and value.get("tool_calls")):
            raise RowFault(
                MISSING_FIELD, f"{name} has no {key}, only {listed(value) or 'none'}", expected=f"{name}.{key}"
            )
    role = value["role"]
    if role not in ROLES:
        meant = _OTHER_ROLE_NAMES.get(role) if isinstance(role, str) else None
        raise RowFault(
            UNKNOWN_ROLE,
            f"{name}.role is {shown(role)}",
            expected=f"one of {', '.join(ROLES)}",
            mend=f"rename it to {meant}" if meant else "rename it",
        )
    calls = _objects(value.get("tool_calls"), f"{name}.tool_calls")
    content = value.get("content")
    text = "" if content is None and calls else require_text(content, f"{name}.content")
    if role == "user":
        _question(text, f"{name}.content")
    if role == "assistant" and not calls:
        _answer(text, f"{name}.content")
    answered = value.get("tool_call_id")
    return Message(
        role,
        text,
        weight=_weight(value.get("weight"), name),
        tool_calls=calls,
        tool_call_id=None if answered is None else require_text(answered, f"{name}.tool_call_id"),
    )


def _weight(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise RowFault(WRONG_TYPE, f"{name}.weight is {shown(value)}", expected="a number from 0")
    return float(value)


def _objects(value: Any, name: str) -> tuple[Raw, ...]:
    """A list of objects, also when it is written as JSON text; absent and null read as empty."""
    if value is None:
        return ()
    parsed = value
    if isinstance(value, str):
        try:
            parsed = json.loads(value or "[]")
        except (ValueError, RecursionError):
            parsed = None
    if not isinstance(parsed, list) or not all(isinstance(item, dict) for item in parsed):
        raise RowFault(WRONG_TYPE, f"{name} is {shown(value)}", expected="a list of objects")
    if parsed:
        require_text(json.dumps(parsed, ensure_ascii=False, default=str), name)  # templates print them as JSON
    return tuple(parsed)


def _check_order(messages: Sequence[Message], field: str = "messages", offset: int = 0) -> None:
    """``field`` and ``offset`` are for the errors: where in the row the messages stand."""
    before: str | None = None
    for number, message in enumerate(messages):
        allowed = _MAY_FOLLOW[before]
        if message.role not in allowed:
            after = f"after {before}" if before else "at the start"
            raise RowFault(
                WRONG_ROLE_ORDER,
                f"{field}[{number + offset}] is of {message.role} {after}",
                expected=" or ".join(allowed),
                mend="join, add or remove messages",
            )
        before = message.role
    if before != "assistant":
        raise RowFault(
            WRONG_ROLE_ORDER,
            f"the last message, {field}[{len(messages) - 1 + offset}], is of {before}",
            expected="an answer of assistant at the end",
            mend="add the answer or remove the message",
        )


# --- ShareGPT --------------------------------------------------------------------------------------------------------

_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""Who speaks, by the names that data sets of this kind use."""


def read_sharegpt(row: Raw, place: Place) -> Conversation:
    """``conversations``, each with ``from`` and ``value``; optional ``system`` and ``tools``.

    ``function_call`` is JSON of one call, or of a list of calls, with ``name`` and ``arguments``; ``observation`` is
    what it returned. Otherwise as for messages.
    """
    raw = _field(row, "conversations")
    if not isinstance(raw, list) or not raw:
        raise RowFault(WRONG_TYPE, f"conversations is {shown(raw)}", expected="a list of turns")
    system = _optional_text(row, "system")
    messages = [Message("system", system)] if system else []
    messages += (_turn(value, f"conversations[{number}]") for number, value in enumerate(raw))
    _check_order(messages, "conversations", offset=-1 if system else 0)
    return Conversation(tuple(messages), place, tools=_objects(row.get("tools"), "tools"))


def _turn(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault(WRONG_TYPE, f"{name} is {shown(value)}", expected="an object with from and value")
    for key in ("from", "value"):
        if key not in value:
            raise RowFault(
                MISSING_FIELD, f"{name} has no {key}, only {listed(value) or 'none'}", expected=f"{name}.{key}"
            )
    speaker = value["from"]
    if not isinstance(speaker, str) or speaker not in _SHAREGPT_ROLES:
        raise RowFault(
            UNKNOWN_ROLE,
            f"{name}.from is {shown(speaker)}",
            expected=f"one of {', '.join(_SHAREGPT_ROLES)}",
            mend="rename it",
        )
    role, text = _SHAREGPT_ROLES[speaker], value["value"]
    if speaker == "function_call":
        calls = _objects(_one_in_a_list(text), f"{name}.value")
        if not calls:
            raise RowFault(WRONG_TYPE, f"{name}.value is {shown(text)}", expected="a call or a list of calls")
        return Message(role, "", tool_calls=calls)
    text = require_text(text, f"{name}.value")
    if role == "user":
        return _question(text, f"{name}.value")
    return _answer(text, f"{name}.value") if role == "assistant" else Message(role, text)


def _one_in_a_list(value: Any) -> Any:
    """A single call, an object or its JSON text, as a list of it."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return f"[{value}]"
    return [value] if isinstance(value, dict) else value


FORMATS.add("messages", RowFormat("messages", ("messages",), ("messages", "tools"), read_messages))
FORMATS.add(
    "sharegpt",
    RowFormat("sharegpt", ("conversations",), ("conversations", "system", "tools"), read_sharegpt),
)
FORMATS.add(
    "alpaca",
    RowFormat(
        "alpaca", ("instruction", "output"), ("instruction", "input", "output", "system", "history"), read_alpaca
    ),
)
