"""Reader of instruction data: rows of any known format become conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hanlin.data.faults import MISSING_FIELD, RowFault, listed
from hanlin.data.files import find_files
from hanlin.data.formats import FORMATS, MEDIA_KEYS, RowFormat, detect_format, known_keys, read_row
from hanlin.data.ledger import Ledger
from hanlin.data.rows import ROW_READERS, missing_column, read_objects
from hanlin.types import Conversation

CONVERSATION_SUFFIXES = tuple(ROW_READERS)

AUTO = "auto"


def read_conversations(
    paths: Sequence[str], *, ledger: Ledger, format: str = AUTO, place: str = "--dataset"
) -> Iterator[Conversation]:
    """The conversations of JSON files and tables, in order, read as they are asked for.

    ``format`` is a name of ``FORMATS``, or ``auto``: told for each row from its keys. ``place`` is the flag that errors
    name. Text is kept exactly as it is given. A row that cannot be used is dropped and recorded, with the reason.

    Raises UserError at once for paths without data and for an unknown format, and while reading for a file that is
    empty, damaged or not UTF-8, for a malformed JSON array, and for a table without the columns of a format.
    """
    named = None if format == AUTO else FORMATS.get_named(format, "--format")
    files = find_files(paths, CONVERSATION_SUFFIXES, place=place)
    return _read(files, ledger, named)


def _read(files: list[Path], ledger: Ledger, named: RowFormat | None) -> Iterator[Conversation]:
    def columns(path: Path, names: list[str]) -> list[str]:
        row_format = named or detect_format(names)
        chosen = [name for name in names if row_format and name in (*row_format.columns, *MEDIA_KEYS)]
        if row_format is None or not any(key in chosen for key in row_format.keys):
            raise missing_column(path, names, _expected(named), "rename the columns")
        return chosen

    for path in files:
        for place, row in read_objects(path, ledger, columns):
            row_format = named or detect_format(list(row))
            try:
                if row_format is None:
                    raise RowFault(
                        MISSING_FIELD,
                        f"the row has the fields {listed(row) or 'none'}",
                        expected=_expected(named),
                        mend="rename the fields",
                    )
                conversation = read_row(row, place, row_format)
            except RowFault as fault:
                ledger.record(place, "dropped", fault.reason, fault.detail)
            else:
                yield conversation


def _expected(named: RowFormat | None) -> str:
    return f"the fields {known_keys()}" if named is None else f"the fields {' and '.join(named.keys)}"
