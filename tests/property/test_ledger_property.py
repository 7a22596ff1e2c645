"""No row is lost: given = read + dropped, for generated good and bad rows in every format and compression."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import itertools
import json
import lzma
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.data.conversations import read_conversations
from hanlin.data.documents import read_documents
from hanlin.data.ledger import Ledger
from hanlin.data.rows import ROW_READERS
from hanlin.data.streams import COMPRESSIONS

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".bz2": bz2.compress,
}
if importlib.util.find_spec("zstandard"):
    import zstandard

    PACK[".zst"] = zstandard.ZstdCompressor().compress

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=0, max_size=12)
texts = st.one_of(words, st.sampled_from(["", " ", "\n", "　", "答案", "a\nb", "\ud83d", "</s>", "\u2028", "﻿"]))
anything = st.one_of(texts, st.none(), st.booleans(), st.integers(-9, 9), st.just([]), st.just(["a", "b"]), st.just({}))
pairs = st.lists(st.lists(texts, min_size=2, max_size=2), max_size=2)
alpaca = st.fixed_dictionaries(
    {"instruction": texts, "output": texts},
    optional={"input": st.one_of(texts, st.none()), "system": texts, "history": pairs},
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "bot"]), "content": texts}
)
messages = st.fixed_dictionaries({"messages": st.lists(message, max_size=4)})
turns = st.integers(1, 3).map(lambda n: [{"role": r, "content": "x"} for r in ("user", "assistant") * n])
broken = st.dictionaries(
    st.sampled_from(["instruction", "input", "output", "messages", "text", "system", "history"]), anything
)
rows = st.one_of(
    alpaca, messages, st.fixed_dictionaries({"messages": turns}), broken, st.just({"instruction": "q", "output": "a"})
)


def good_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def full_text(value: Any) -> bool:
    return good_text(value) and value.strip() != ""


def usable_conversation(row: Any) -> bool:
    """Slow and plain: the rules of the row formats, written a second time."""
    if not isinstance(row, dict):
        return False
    if "messages" in row:
        turns = row["messages"]
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            return False
        order = ""
        for turn in turns:
            if turn.get("role") not in ("system", "user", "assistant", "tool") or not good_text(turn.get("content")):
                return False
            if turn["role"] in ("user", "assistant") and not full_text(turn["content"]):
                return False
            order += turn["role"][0]
        return re.fullmatch("s?(u(at+)*a)+", order) is not None
    if not full_text(row.get("instruction")) or not full_text(row.get("output")):
        return False
    if not all(row.get(key) is None or good_text(row[key]) for key in ("input", "system")):
        return False
    history = row.get("history")
    return history is None or (
        isinstance(history, list)
        and all(
            isinstance(pair, list) and len(pair) == 2 and full_text(pair[0]) and full_text(pair[1]) for pair in history
        )
    )


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, list[Any]]:
    """Name and bytes of a file of rows, and each row as a JSON reader sees it (None for a line that is no JSON)."""
    kind = draw(st.sampled_from(["lines", "array", "table"]))
    suffix = draw(st.sampled_from(sorted(PACK)))
    values = draw(st.lists(rows, min_size=1, max_size=8))
    if kind == "table":
        # A column has one type; text columns with nulls, and pairs or messages where the rows have them.
        table = [
            {
                key: row[key] if good_text(row.get(key)) else None
                for key in ("instruction", "input", "output", "system", "text")
            }
            for row in values
        ]
        buffer = io.BytesIO()
        schema = pa.schema([(key, pa.string()) for key in table[0]])
        pq.write_table(pa.Table.from_pylist(table, schema), buffer, row_group_size=3)
        return f"a.parquet{suffix}", PACK[suffix](buffer.getvalue()), table
    ending = draw(st.sampled_from([".json", ".jsonl"])) + suffix
    ascii_only = draw(st.booleans()) or "\\ud83d" in json.dumps(values)
    mark = draw(st.sampled_from(["", "﻿"]))
    if kind == "array":
        extra = draw(st.lists(st.sampled_from([5, "x", None, [1], []]), max_size=2))
        values = [*values, *extra]
        text = mark + json.dumps(values, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1])))
        return f"a{ending}", PACK[suffix](text.encode()), values
    lines: list[str] = []
    seen: list[Any] = []
    for value in values:
        lines.append(json.dumps(value, ensure_ascii=ascii_only))
        seen.append(value)
        other = draw(st.sampled_from(["nothing", "blank", "cut", "words", "number"]))
        if other == "blank":
            lines.append(draw(st.sampled_from(["", "  ", "\t\r"])))
        elif other != "nothing":
            lines.append({"cut": lines[-1][:-1], "words": "not JSON", "number": "7"}[other])
            seen.append(None)
    line_break = draw(st.sampled_from(["\n", "\r\n"]))
    text = mark + line_break.join(lines) + draw(st.sampled_from(["", line_break]))
    return f"a{ending}", PACK[suffix](text.encode()), seen


met: Counter[str] = Counter()


# The same examples in every run, so that the test at the end may ask which cases were met.
@settings(max_examples=300, deadline=None, derandomize=True)
@given(files())
def test_no_row_of_a_file_of_rows_is_lost(file: tuple[str, bytes, list[Any]]) -> None:
    name, data, seen = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        ledger = Ledger()
        conversations = list(read_conversations([folder], ledger=ledger))
        text_ledger = Ledger()
        documents = list(read_documents([folder], ledger=text_ledger))

    assert ledger.given == len(seen) == len(conversations) + ledger.num_dropped
    assert text_ledger.given == len(seen) == len(documents) + text_ledger.num_dropped
    usable = [row for row in seen if usable_conversation(row)]
    assert len(conversations) == len(usable)
    for row, conversation in zip(usable, conversations, strict=True):
        answers = [row["messages"][-1]["content"]] if "messages" in row else [row["output"]]
        assert [conversation.messages[-1].content] == answers
    assert [d.text for d in documents] == [
        row["text"] for row in seen if isinstance(row, dict) and full_text(row.get("text"))
    ]
    # Each place is named once, by a used row or by the ledger; places are in the order of the file.
    places = [c.place for c in conversations] + [e.place for e in ledger.entries]
    assert len(set(places)) == len(seen)
    assert all(entry.action == "dropped" and entry.reason and entry.detail for entry in ledger.entries)
    met.update([name.removeprefix("a"), "used" if usable else "all dropped", *(e.reason for e in ledger.entries)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(words.filter(lambda t: "\n" not in t and "\r" not in t), st.sampled_from(["", " ", "　", "一"]))
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(sorted(PACK)),
)
def test_no_line_of_a_text_file_is_lost(lines: list[str], line_break: str, suffix: str) -> None:
    lines = ["first", *lines]
    data = PACK[suffix]((line_break.join(lines) + line_break).encode())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.txt{suffix}"
        path.write_bytes(data)
        ledger = Ledger()
        documents = list(read_documents([str(path)], ledger=ledger, document="line"))
        assert [d.text for d in documents] == [line for line in lines if line.strip()]
        assert [lines[d.place.line - 1] for d in documents if d.place.line] == [d.text for d in documents]
        assert ledger.given == sum(line != "" for line in lines) == len(documents) + ledger.num_dropped

        ledger = Ledger()
        documents = list(read_documents([str(path)], ledger=ledger, document="blank_line"))
        groups = [list(group) for full, group in itertools.groupby(lines, key=lambda t: t.strip() != "") if full]
        assert [d.text for d in documents] == [line_break.join(group) for group in groups]
        assert ledger.given == len(documents) and not ledger.entries

        ledger = Ledger()
        (whole,) = read_documents([str(path)], ledger=ledger, document="file")
        assert whole.text == line_break.join(lines) + line_break


def test_every_format_and_compression_was_met() -> None:
    if not met:
        pytest.skip("runs after the property test, in the same process")
    assert set(ROW_READERS) == {".json", ".jsonl", ".parquet"}, "a new container needs its rows generated above"
    assert set(PACK) | {".zst", ""} == {*COMPRESSIONS, ""}
    assert {name for name in met if name.startswith(".")} == {kind + pack for kind in ROW_READERS for pack in PACK}
    reasons = {"malformed JSON", "not an object", "missing field", "wrong type", "not Unicode text", "empty answer"}
    assert reasons | {"empty instruction", "unknown role", "wrong role order", "used", "all dropped"} <= set(met)
