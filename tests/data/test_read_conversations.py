"""Conversations from Alpaca records and messages; each fault of a row is named and the next row is read."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanlin.data.conversations import read_conversations
from hanlin.data.formats import FORMATS
from hanlin.data.ledger import Ledger
from hanlin.errors import UserError
from hanlin.types import Conversation, Message, Place

GOOD = {"instruction": "问", "input": "", "output": "答"}


def read(path: Path | str, **options: Any) -> tuple[list[Conversation], Ledger]:
    ledger = Ledger()
    return list(read_conversations([str(path)], ledger=ledger, **options)), ledger


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": " 问 ", "input": "", "output": "答\n"}, [("user", " 问 "), ("assistant", "答\n")]),
        ({"instruction": "问", "input": None, "output": "答"}, [("user", "问"), ("assistant", "答")]),
        ({"instruction": "问", "output": "答", "id": 7}, [("user", "问"), ("assistant", "答")]),
        ({"instruction": "问", "input": " 文", "output": "答"}, [("user", "问\n 文"), ("assistant", "答")]),
        ({"instruction": "问", "input": " ", "output": "答"}, [("user", "问\n "), ("assistant", "答")]),
        (GOOD | {"system": "简"}, [("system", "简"), ("user", "问"), ("assistant", "答")]),
        (GOOD | {"system": "", "history": []}, [("user", "问"), ("assistant", "答")]),
        (GOOD | {"system": None, "history": None}, [("user", "问"), ("assistant", "答")]),
        (
            GOOD | {"system": "s", "history": [["a", "b"], ["c", "d"]]},
            [("system", "s"), *zip(("user", "assistant") * 3, "abcd问答", strict=True)],
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2},
            list(zip(("user", "assistant") * 2, "abab", strict=True)),
        ),
    ],
)
def test_good_row(tmp_path: Path, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    conversations, ledger = read(write(tmp_path / "a.jsonl", row))
    assert [turns(c) for c in conversations] == [expected]
    assert (ledger.given, ledger.entries) == (1, [])
    assert conversations[0].place == Place(str(tmp_path / "a.jsonl"), line=1)


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_tools_calls_and_weights(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": "1", "tool_call_id": "1"},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "b", "weight": None},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    path = write(
        tmp_path / "a.jsonl", {"messages": messages, "tools": tools}, {"messages": messages, "tools": json.dumps(tools)}
    )
    conversations, ledger = read(path)
    assert not ledger.entries and len(conversations) == 2
    for conversation in conversations:
        assert conversation.tools == tuple(tools)
        assert conversation.messages[0] == Message("system", "")
        assert conversation.messages[2] == Message("assistant", "", tool_calls=tuple(CALLS))
        assert [m.tool_call_id for m in conversation.messages[3:5]] == ["1", None]
        assert [m.weight for m in conversation.messages] == [None] * 5 + [0.0, None, None]


def test_sharegpt(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": {"city": "巴黎"}}
    turns_ = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "18"},
        {"from": "function_call", "value": json.dumps([call, call])},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "a"},
    ]
    tools = json.dumps([{"name": "f"}])
    path = write(
        tmp_path / "a.jsonl",
        {"conversations": turns_, "system": "s", "tools": tools},
        {"conversations": [{"from": "system", "value": "s"}, *turns_], "tools": ""},
        {"conversations": [turns_[0], {"from": "function_call", "value": call}]},
    )
    conversations, ledger = read(path)
    assert not ledger.entries
    talk = [("system", "s"), ("user", "q"), ("assistant", ""), ("tool", "18"), ("assistant", ""), ("tool", "")]
    assert [turns(c) for c in conversations[:2]] == [[*talk, ("assistant", "a")]] * 2
    assert [len(message.tool_calls) for message in conversations[0].messages] == [0, 0, 1, 0, 2, 0, 0]
    assert conversations[0].tools == ({"name": "f"},) and conversations[1].tools == ()
    assert conversations[2].messages[1] == Message("assistant", "", tool_calls=(call,))


def said(*pairs: Any) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in pairs]}


def msgs(*pairs: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


U, A, S, T = ("user", "q"), ("assistant", "a"), ("system", "s"), ("tool", "t")

BAD: list[tuple[Any, str, str]] = [
    ('{"instruction": "问", output: 1}', "malformed JSON", "column 22: Expecting property name"),
    ('{"instruction": "问"', "malformed JSON", "column 20: Expecting ',' delimiter"),
    ("plain words", "malformed JSON", "column 1: Expecting value, near 'plain words'"),
    ('{"instruction": ' + "9" * 5000 + "}", "malformed JSON", "integer string conversion"),
    ("[" * 100_000, "malformed JSON", "recursion"),
    ("[1, 2]", "not an object", "the row is [1, 2]; expected an object"),
    ('"text"', "not an object", 'the row is "text"'),
    ("null", "not an object", "the row is null"),
    ({}, "missing field", "the row has the fields none"),
    ({"question": "q", "answer": "a"}, "missing field", "question, answer; expected the fields messages"),
    ({"instruction": "q"}, "missing field", "no field output, only instruction"),
    ({"output": "a"}, "missing field", "no field instruction, only output"),
    (GOOD | {"instruction": 5}, "wrong type", "instruction is 5; expected text; put it in quotes"),
    (GOOD | {"instruction": None}, "wrong type", "instruction is null; expected text; write"),
    (GOOD | {"input": ["x"]}, "wrong type", 'input is ["x"]'),
    (GOOD | {"input": False}, "wrong type", "input is false"),
    (GOOD | {"output": True}, "wrong type", "output is true"),
    (GOOD | {"output": {"a": "答" * 99}}, "wrong type", "…; expected text"),
    (GOOD | {"output": "a\udc00"}, "not Unicode text", "\\udc00, at character 1"),
    (GOOD | {"output": "\U0001f600"[0:0]}, "empty answer", "output is empty; expected an answer"),
    (GOOD | {"output": " \n　"}, "empty answer", "output is empty"),
    (GOOD | {"instruction": ""}, "empty instruction", "instruction is empty"),
    (GOOD | {"instruction": " ", "input": "x"}, "empty instruction", "instruction is empty"),
    (GOOD | {"system": 1}, "wrong type", "system is 1"),
    (GOOD | {"history": "q"}, "wrong type", 'history is "q"; expected a list of [question, answer] pairs'),
    (GOOD | {"history": [["q"]]}, "wrong type", 'history[0] is ["q"]; expected a pair'),
    (GOOD | {"history": [["q", "a"], ["q", None]]}, "wrong type", "history[1][1] is null"),
    (GOOD | {"history": [["q", ""]]}, "empty answer", "history[0][1] is empty"),
    (GOOD | {"images": ["a.jpg"]}, "not only text", 'images: ["a.jpg"]'),
    ({"messages": []}, "wrong type", "messages is []"),
    ({"messages": None}, "wrong type", "messages is null"),
    ({"messages": ["q", "a"]}, "wrong type", 'messages[0] is "q"; expected an object'),
    ({"messages": [{"from": "human", "value": "q"}]}, "missing field", "messages[0] has no role, only from, value"),
    ({"messages": [{"role": "user"}]}, "missing field", "messages[0] has no content, only role"),
    (msgs(U, ("bot", "a")), "unknown role", 'one of system, user, assistant, tool; rename it to assistant'),
    (msgs((["user"], "q")), "unknown role", 'messages[0].role is ["user"]'),
    (msgs(U, ("assistant", None)), "wrong type", "messages[1].content is null"),
    (msgs(U, ("assistant", [{"type": "text"}])), "wrong type", "messages[1].content is [{"),
    (msgs(U, ("assistant", " ")), "empty answer", "messages[1].content is empty"),
    (msgs(("user", ""), A), "empty instruction", "messages[0].content is empty"),
    (msgs(U), "wrong role order", "the last message, messages[0], is of user"),
    (msgs(U, A, U), "wrong role order", "the last message, messages[2], is of user; expected an answer"),
    (msgs(S), "wrong role order", "the last message, messages[0], is of system"),
    (msgs(A), "wrong role order", "messages[0] is of assistant at the start; expected system or user"),
    (msgs(S, A), "wrong role order", "messages[1] is of assistant after system; expected user"),
    (msgs(U, A, A), "wrong role order", "messages[2] is of assistant after assistant; expected user or tool"),
    (msgs(U, U, A), "wrong role order", "messages[1] is of user after user"),
    (msgs(U, S, A), "wrong role order", "messages[1] is of system after user"),
    (msgs(U, T, A), "wrong role order", "messages[1] is of tool after user"),
    (msgs(U, A) | {"tools": "{"}, "wrong type", 'tools is "{"; expected a list of objects'),
    (msgs(U, A) | {"tools": [1]}, "wrong type", "tools is [1]"),
    (msgs(U, A) | {"tools": [{"a": "\ud800"}]}, "not Unicode text", "tools holds half"),
    (said(), "wrong type", "conversations is []"),
    (said(("human", "q")) | {"conversations": ["q"]}, "wrong type", 'conversations[0] is "q"; expected an object'),
    (said(("human", "q"), ("bing", "a")), "unknown role", 'conversations[1].from is "bing"; expected one of sys'),
    (said((["human"], "q")), "unknown role", 'conversations[0].from is ["human"]'),
    ({"conversations": [{"role": "user"}]}, "missing field", "conversations[0] has no from, only role"),
    (said(("human", "q"), ("gpt", 1)), "wrong type", "conversations[1].value is 1"),
    (said(("human", " "), ("gpt", "a")), "empty instruction", "conversations[0].value is empty"),
    (said(("human", "q"), ("gpt", "")), "empty answer", "conversations[1].value is empty"),
    (said(("human", "q"), ("function_call", "f()")), "wrong type", 'conversations[1].value is "f()"; expected a list'),
    (said(("human", "q"), ("function_call", "[]")), "wrong type", "expected a call or a list of calls"),
    (said(("gpt", "a")) | {"system": "s"}, "wrong role order", "conversations[0] is of assistant after system"),
    (said(("human", "q"), ("observation", "t")), "wrong role order", "conversations[1] is of tool after user"),
    (msgs(U, A) | {"messages": [msgs(U)["messages"][0], {"role": "tool", "content": "t", "tool_call_id": 1}]},
     "wrong type", "messages[1].tool_call_id is 1"),
    ({"messages": [{"role": "user", "content": "q", "weight": True}]}, "wrong type", "messages[0].weight is true"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason", "detail"), BAD)
def test_bad_row_is_dropped_with_its_reason(tmp_path: Path, row: Any, reason: str, detail: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, row, GOOD)
    conversations, ledger = read(path)
    assert len(conversations) == 2 and ledger.given == 3
    (entry,) = ledger.entries
    assert (entry.place, entry.action, entry.reason) == (Place(str(path), line=2), "dropped", reason)
    assert detail in entry.detail and "\n" not in entry.detail
    entry.detail.encode()  # can be printed and saved


def test_every_format_is_found_by_its_own_keys() -> None:
    for name, row_format in FORMATS.items():
        assert row_format.name == name and set(row_format.keys) <= set(row_format.columns)


def test_named_format_is_held_to_its_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, msgs(U, A))
    assert len(read(path)[0]) == 2
    conversations, ledger = read(path, format="messages")
    assert len(conversations) == 1
    assert ledger.entries[0].detail.startswith("the row has no field messages, only instruction, input, output")
    with pytest.raises(
        UserError, match="unknown format 'alpacca'; expected one of alpaca, messages, sharegpt; did you mean alpaca"
    ):
        read_conversations([str(path)], ledger=Ledger(), format="alpacca")


def test_array_or_lines_is_told_by_the_contents(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"output": "二"}]
    for name in ("a.json", "a.jsonl"):
        for text in (json.dumps(rows), json.dumps(rows, indent=2), "﻿ \n" + json.dumps(rows)):
            (tmp_path / name).write_text(text, "utf-8")
            conversations, ledger = read(tmp_path / name)
            assert [c.messages[-1].content for c in conversations] == ["答", "二"] and ledger.given == 2
            assert conversations[1].place == Place(str(tmp_path / name), index=1)
        conversations, _ = read(write(tmp_path / name, *rows))
        assert conversations[1].place == Place(str(tmp_path / name), line=2)
        conversations, ledger = read(write(tmp_path / name, [], *rows))  # lines, of which the first is no record
        assert len(conversations) == 2 and ledger.counts() == {("dropped", "not an object"): 1}


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [GOOD | {"history": [["a", "b"]]}, GOOD | {"output": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    conversations, ledger = read(path)
    assert [len(c.messages) for c in conversations] == [4]
    assert str(ledger.entries[0]).startswith(f"{path}[1]: output is null")
    pq.write_table(pa.Table.from_pylist([msgs(S, U, A), {"messages": None}]), path)
    conversations, ledger = read(path)
    assert [turns(c) for c in conversations] == [[S, U, A]] and ledger.num_dropped == 1
    pq.write_table(pa.Table.from_pylist([{"q": "1"}]), path)
    with pytest.raises(
        UserError, match=r"has the columns q; expected the fields messages .* or instruction and output"
    ):
        read(path)
    pq.write_table(pa.Table.from_pylist([GOOD])[:0], path)
    with pytest.raises(UserError, match="the file holds no row"):
        read(path)


def test_real_records(shared_data: Path) -> None:
    conversations, ledger = read(shared_data / "real" / "alpaca_zh_demo.json")
    rows = json.loads((shared_data / "real" / "alpaca_zh_demo.json").read_text("utf-8"))
    assert len(conversations) == ledger.given == 1000
    assert any(row["input"] for row in rows)
    for row, conversation in zip(rows, conversations, strict=True):
        question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        assert turns(conversation) == [("user", question), ("assistant", row["output"])]


def test_all_records_of_the_large_set_are_read(shared_data: Path) -> None:
    path = shared_data / "zh-poetry" / "instructions-51k.json.xz"
    conversations, ledger = read(path)
    assert len(conversations) == ledger.given == 51_179 and not ledger.entries
    with lzma.open(path) as file:
        assert [c.messages[-1].content for c in conversations] == [row["output"] for row in json.load(file)]
