"""From a file of rows to raw rows: JSON lines, JSON arrays, tables. A container is one entry of ``ROW_READERS``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hanlin.data.faults import MALFORMED_JSON, NOT_AN_OBJECT, RowFault, excerpt, listed, shown
from hanlin.data.ledger import Ledger
from hanlin.data.streams import compression_of, empty_file, open_bytes, read_lines, read_text, suffix_of
from hanlin.errors import UserError
from hanlin.types import Place

Row = tuple[Place, Any]
"""A place and what stands there: any JSON value, or the RowFault that kept it from being read."""

Columns = Callable[[Path, list[str]], list[str]]
"""Chooses the columns to read from those that a table has; raises UserError when none will do."""

_TABLE_BATCH_ROWS = 1024


def read_objects(path: Path, ledger: Ledger, columns: Columns) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The rows of one file that are objects, in order; the others go to the ledger, which counts all of them.

    A file of lines is read as it streams, a table by batches; only a JSON array is held in memory. Raises UserError for
    a file that is empty, damaged or not UTF-8, and for a malformed JSON array.
    """
    num_rows = 0
    for place, value in ROW_READERS[suffix_of(path)](path, columns):
        num_rows += 1
        ledger.saw()
        if isinstance(value, RowFault):
            ledger.record(place, "dropped", value.reason, value.detail)
        elif not isinstance(value, dict):
            ledger.record(place, "dropped", NOT_AN_OBJECT, f"the row is {shown(value)}; expected an object {{…}}")
        else:
            yield place, value
    if num_rows == 0:
        raise empty_file(path, "the file holds no row")


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Rows of a JSON array or of JSON lines; which of the two is told by the contents, not by the name.

    A ``[`` at the start means an array, unless the first line is a whole value and others follow it. Blank lines are
    not rows.
    """
    lines = (line for line in read_lines(path) if line.text.strip())
    first = next(lines, None)
    if first is None:
        return
    start = first.text.strip()
    second = next(lines, None)
    if start.startswith("[") and (second is None or isinstance(_parse_line(start), RowFault)):
        lines.close()
        yield from _json_array(path)
        return
    if start.startswith("{") and start[-1] in "{[,":
        raise UserError(
            f"{path}:{first.number}",
            f"an object begins with {shown(start)} and goes on over several lines",
            expected="a JSON array of objects, or one object a line",
            mend="put [ ] around the objects with commas between, or write one a line (jq -c .)",
        )
    for line in (first, second):
        if line is not None:
            yield Place(str(path), line=line.number), _parse_line(line.text)
    yield from ((Place(str(path), line=line.number), _parse_line(line.text)) for line in lines)


def _json_array(path: Path) -> Iterator[Row]:
    text = read_text(path)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}:{error.colno}",
            f"malformed JSON array: {error.msg}, near {excerpt(text, error.pos)}",
            expected="one array of objects",
            mend="mend this place; each record needs its braces and a comma before the next",
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nesting without end
        raise UserError(path, f"the JSON array cannot be read: {error}") from None
    for index, value in enumerate(values):
        yield Place(str(path), index=index), value


def _parse_line(text: str) -> Any:
    """The JSON value of one line, or the RowFault that says where it breaks."""
    text = text.rstrip("\r\n")  # else a fault at the end of the line would be reported in the line after it
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return RowFault(
            MALFORMED_JSON,
            f"column {error.pos + 1}: {error.msg}, near {excerpt(text, error.pos)}",
            expected="one whole JSON object on the line",
            mend="mend or remove the line",
        )
    except (ValueError, RecursionError) as error:
        return RowFault(MALFORMED_JSON, str(error), expected="an object that a JSON reader accepts")


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow  # costs 0.2 s, and most data is text or JSON
    import pyarrow.parquet

    try:
        source: Any = path
        if compression_of(path):  # a table is read from its end, so a packed one has to be unpacked first
            with open_bytes(path) as stream:
                source = pyarrow.BufferReader(stream.read())
        elif path.stat().st_size == 0:
            raise empty_file(path, "the file is empty (0 bytes)")
        with pyarrow.parquet.ParquetFile(source) as table:
            names = columns(path, table.schema_arrow.names)
            index = 0
            for batch in table.iter_batches(batch_size=_TABLE_BATCH_ROWS, columns=names):
                for row in batch.to_pylist():
                    yield Place(str(path), index=index), row
                    index += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            path, f"the table cannot be read: {error}", expected="a whole parquet file", mend="copy or write it again"
        ) from error


RowReader = Callable[[Path, Columns], Iterator[Row]]

ROW_READERS: dict[str, RowReader] = {".json": _json_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
"""How the rows of a file are read, by the suffix of its name."""


def missing_column(path: Path, names: list[str], expected: str, mend: str = "") -> UserError:
    """The error for a table that has none of the columns that are read."""
    return UserError(path, f"the table has the columns {listed(names)}", expected=expected, mend=mend)
