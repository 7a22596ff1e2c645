"""Documents from text, JSON and tables."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanlin.data.documents import read_documents
from hanlin.data.ledger import Ledger
from hanlin.errors import UserError
from hanlin.types import Document, Place


def read(path: Path | str, **options: Any) -> tuple[list[Document], Ledger]:
    ledger = Ledger()
    return list(read_documents([str(path)], ledger=ledger, **options)), ledger


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "  one \r\n\ntwo\r\n\r\n 　\nlast")
    documents, ledger = read(path)
    assert documents == [
        Document("  one ", Place(str(path), line=1)),
        Document("two", Place(str(path), line=3)),
        Document("last", Place(str(path), line=6)),
    ]
    assert ledger.given == 4
    assert [str(e) for e in ledger.entries] == [f"{path}:5: nothing but white space; write text or remove it"]


def test_blank_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n\n  one\r\ntwo \r\n\n \t\nthree\n")
    documents, ledger = read(path, document="blank_line")
    assert documents == [
        Document("  one\r\ntwo ", Place(str(path), line=3)),
        Document("three", Place(str(path), line=7)),
    ]
    assert (ledger.given, ledger.entries) == (2, [])


def test_file(tmp_path: Path) -> None:
    text = "\none\r\n\ntwo\n\n"
    path = write(tmp_path / "a.txt", text)
    assert read(path, document="file")[0] == [Document(text, Place(str(path)))]
    write(path, " \n")
    documents, ledger = read(path, document="file")
    assert (documents, ledger.given, ledger.counts()) == ([], 1, {("dropped", "empty document"): 1})


@pytest.mark.parametrize("as_array", [True, False])
def test_json(tmp_path: Path, as_array: bool) -> None:
    values: list[Any] = [
        {"text": " 一\n"},
        {"text": ""},
        {"txt": "x"},
        {"text": 5},
        "x",
        {"text": "\ud800"},
        {"text": None},
    ]
    encoded = [json.dumps(value) for value in values]
    path = write(tmp_path / "a.json", "[" + ",\n".join(encoded) + "]" if as_array else "\n\n".join(encoded))
    documents, ledger = read(path)
    assert [d.text for d in documents] == [" 一\n"]
    assert str(documents[0].place) == (f"{path}[0]" if as_array else f"{path}:1")
    assert ledger.given == 7
    assert [e.reason for e in ledger.entries] == [
        "empty document",
        "missing field",
        "wrong type",
        "not an object",
        "not Unicode text",
        "wrong type",
    ]
    assert str(ledger.entries[1].place) == (f"{path}[2]" if as_array else f"{path}:5")
    assert "no field text, only txt" in ledger.entries[1].detail and "--text_field" in ledger.entries[1].detail
    assert ledger.entries[2].detail.startswith("text is 5; expected text")


def test_parquet_by_batches(tmp_path: Path) -> None:
    texts = [f"文 {i}" for i in range(2500)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": range(2501), "body": [*texts, None]}), path)
    documents, ledger = read(path, text_field="body")
    assert [d.text for d in documents] == texts
    assert documents[2499].place == Place(str(path), index=2499)
    assert [(str(e.place), e.reason) for e in ledger.entries] == [(f"{path}[2500]", "wrong type")]
    with pytest.raises(UserError, match=r"has the columns id, body; expected the column text; name .* --text_field"):
        read(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet: the table cannot be read: .*; expected a whole parquet file"):
        read(path, text_field="body")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"a\.txt: the file is empty \(0 bytes\)"),
        ("a.txt", "\n\r\n\n", r"a\.txt: the file holds nothing but blank lines"),
        ("a.jsonl", "", r"a\.jsonl: the file is empty \(0 bytes\)"),
        ("a.json", "\n ", r"a\.json: the file holds no row"),
        ("a.json", "[ ]", r"a\.json: the file holds no row"),
        ("a.parquet", "", r"a\.parquet: the file is empty \(0 bytes\)"),
        ("a.parquet", "PAR1 not really", r"a\.parquet: the table cannot be read"),
        ("a.json", '[\n{"text": "x"}\n{"text": "y"}]', r"a\.json:3:1: malformed JSON array: Expecting ',' delimiter"),
        ("a.json", '[\n{"text": "x"},\n', r"a\.json:3:1: malformed JSON array"),
        ("a.json", "[" * 100_000, r"a\.json: the JSON array cannot be read"),
        ("a.json", '{\n"text": "x"\n}', r"a\.json:1: an object begins with .* one object a line"),
        ("a.json", '{"data": [\n{"text": "x"}]}', r"a\.json:1: an object begins with"),
    ],
)
def test_fault_of_a_whole_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_paths_are_checked_before_the_first_document_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--corpus: .* does not exist"):
        read_documents([str(tmp_path / "no.txt")], ledger=Ledger(), place="--corpus")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.xz"])
def test_files_of_lines_stream(tmp_path: Path, name: str) -> None:
    line = ('{"text": "x"}' if "json" in name else "x") + "\n"
    data = line.encode() * 50_000 + b"\xff\n"  # the fault at the end is met only after all that is before it
    path = tmp_path / name
    path.write_bytes(lzma.compress(data, preset=0) if name.endswith("xz") else data)
    ledger = Ledger()
    documents = read_documents([str(path)], ledger=ledger)
    assert next(documents).text == "x"
    assert ledger.given == 1
    with pytest.raises(UserError, match=rf"{name}:50001: "):
        list(documents)
    assert ledger.given == 50_000


def test_real_text(shared_data: Path) -> None:
    documents, ledger = read(shared_data / "real" / "wiki_demo.txt")
    expected = [line for line in (shared_data / "real" / "wiki_demo.txt").read_text("utf-8").split("\n") if line]
    assert [d.text for d in documents] == expected and not ledger.entries
    rows = (shared_data / "real" / "c4_demo.jsonl").read_bytes().splitlines()
    documents, ledger = read(shared_data / "real" / "c4_demo.jsonl")
    assert [d.text for d in documents] == [json.loads(row)["text"] for row in rows]
    assert ledger.given == 300


def test_real_corpus_has_its_published_number_of_documents(shared_data: Path) -> None:
    documents, ledger = read(shared_data / "zh-poetry" / "corpus.txt.xz", document="blank_line")
    assert len(documents) == ledger.given == 117_254
    with lzma.open(shared_data / "zh-poetry" / "corpus.txt.xz", "rt", encoding="utf-8", newline="\n") as file:
        assert [d.text for d in documents] == re.split("\n\n+", file.read().strip("\n"))
