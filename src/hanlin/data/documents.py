"""Readers of plain text for pre-training and for training a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from hanlin.data.faults import EMPTY_DOCUMENT, MISSING_FIELD, RowFault, listed, require_text
from hanlin.data.files import find_files
from hanlin.data.ledger import Ledger
from hanlin.data.rows import ROW_READERS, missing_column, read_objects
from hanlin.data.streams import empty_file, read_lines, read_text, suffix_of
from hanlin.types import Document, Place

DocumentUnit = Literal["line", "blank_line", "file"]

TEXT_SUFFIX = ".txt"
DOCUMENT_SUFFIXES = (TEXT_SUFFIX, *ROW_READERS)


def read_documents(
    paths: Sequence[str],
    *,
    ledger: Ledger,
    document: DocumentUnit = "line",
    text_field: str = "text",
    place: str = "--dataset",
) -> Iterator[Document]:
    """The documents of text files, JSON files and tables, in order, read as they are asked for.

    ``document`` says what a document of a text file is: a line, the lines up to a blank one, or the whole file. In the
    other files each row is a document, its text in the field ``text_field``. ``place`` is the flag that errors name.

    Text is kept exactly as it is given. Only the line break after a document of ``line`` and ``blank_line`` is not part
    of it. Blank lines separate documents and are not rows, except that ``line`` counts a line of white space as one. A
    document of nothing but white space is dropped and recorded.

    Raises UserError at once for paths without data, and while reading for a file that is empty, damaged or not UTF-8.
    """
    files = find_files(paths, DOCUMENT_SUFFIXES, place=place)
    return _read(files, ledger, document, text_field)


def _read(files: list[Path], ledger: Ledger, unit: DocumentUnit, text_field: str) -> Iterator[Document]:
    for path in files:
        if suffix_of(path) == TEXT_SUFFIX:
            yield from _from_text(path, ledger, unit)
        else:
            yield from _from_rows(path, ledger, text_field)


def _from_text(path: Path, ledger: Ledger, unit: DocumentUnit) -> Iterator[Document]:
    documents = {"line": _by_line, "blank_line": _by_blank_line, "file": _by_file}[unit]
    num_rows = 0
    for place, text in documents(path):
        num_rows += 1
        ledger.saw()
        if text.isspace():
            ledger.record(place, "dropped", EMPTY_DOCUMENT, "nothing but white space; write text or remove it")
        else:
            yield Document(text, place)
    if num_rows == 0:
        raise empty_file(path, "the file holds nothing but blank lines")


def _by_line(path: Path) -> Iterator[tuple[Place, str]]:
    for number, line in read_lines(path):
        text = _without_break(line)
        if text:
            yield Place(str(path), line=number), text


def _by_blank_line(path: Path) -> Iterator[tuple[Place, str]]:
    """Paragraphs: a line of nothing but white space counts as blank, since editors leave such lines."""
    lines: list[str] = []
    first = 0
    for number, line in read_lines(path):
        if line.isspace():
            if lines:
                yield Place(str(path), line=first), _without_break("".join(lines))
                lines = []
        else:
            first = first if lines else number
            lines.append(line)
    if lines:
        yield Place(str(path), line=first), _without_break("".join(lines))


def _by_file(path: Path) -> Iterator[tuple[Place, str]]:
    yield Place(str(path)), read_text(path)


def _without_break(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _from_rows(path: Path, ledger: Ledger, text_field: str) -> Iterator[Document]:
    def columns(path: Path, names: list[str]) -> list[str]:
        if text_field not in names:
            raise missing_column(path, names, f"the column {text_field}", "name the one to read with --text_field")
        return [text_field]

    for place, row in read_objects(path, ledger, columns):
        try:
            if text_field not in row:
                raise RowFault(
                    MISSING_FIELD,
                    f"the row has no field {text_field}, only {listed(row) or 'none'}",
                    expected="one that holds the text",
                    mend="name it with --text_field",
                )
            text = require_text(row[text_field], text_field)
            if not text or text.isspace():
                raise RowFault(EMPTY_DOCUMENT, f"{text_field} is empty", expected="text", mend="remove the row")
        except RowFault as fault:
            ledger.record(place, "dropped", fault.reason, fault.detail)
        else:
            yield Document(text, place)
