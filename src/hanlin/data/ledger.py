"""The ledger: every row that is not used exactly as it was given, by place and reason."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table
from rich.text import Text

from hanlin.errors import UserError
from hanlin.files import write_text
from hanlin.types import Place

Action = Literal["dropped", "cut"]

_FIRST_PLACES = 3
"""How many reasons, and places of each, an error names; the saved ledger holds all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row that was dropped or cut. ``detail`` reads like an error line: value, expectation, mend."""

    place: Place
    action: Action
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.detail or self.reason}"


@dataclass(slots=True)
class Ledger:
    """Account of the rows of one data set: ``given`` = rows used + rows dropped, always.

    A reader calls ``saw`` once for each row that it meets, whether the row can be used or not, and ``record`` for each
    row that it drops. Later steps, which do not see new rows, only ``record``.
    """

    entries: list[Entry] = field(default_factory=list)
    given: int = 0
    """Rows seen."""

    def saw(self, n: int = 1) -> None:
        """Count ``n`` rows as given."""
        self.given += n

    def record(self, place: Place, action: Action, reason: str, detail: str = "") -> None:
        """Write down that the row at ``place`` was dropped or cut. A cut row is still used."""
        self.entries.append(Entry(place, action, reason, detail))

    def counts(self) -> dict[tuple[Action, str], int]:
        """Entries by action and reason, the most frequent first."""
        return dict(Counter((entry.action, entry.reason) for entry in self.entries).most_common())

    @property
    def num_dropped(self) -> int:
        """Number of rows that are not used."""
        return sum(entry.action == "dropped" for entry in self.entries)

    @property
    def num_cut(self) -> int:
        """Number of entries for rows that are used in part."""
        return sum(entry.action == "cut" for entry in self.entries)

    @property
    def num_used(self) -> int:
        """Number of rows that are used, whole or cut."""
        return self.given - self.num_dropped

    def merge(self, other: Ledger) -> None:
        """Add the account of ``other``, for example of a data set that was read from the cache."""
        self.given += other.given
        self.entries.extend(other.entries)

    def check(self, max_dropped: float) -> None:
        """Raise UserError when more than ``max_dropped`` (a share, 0.01 = 1 %) of the rows were dropped or cut.

        A row with several entries (cut, then dropped) counts once.
        """
        num_affected = len({entry.place for entry in self.entries})
        share = num_affected / max(self.given, num_affected, 1)
        if share <= max_dropped:
            return
        reasons = ", ".join(f"{count} {action} ({reason})" for (action, reason), count in self.counts().items())
        mends = ["mend the rows"]
        if any(reason.startswith("too long") for _, reason in self.counts()):
            mends.append("raise --max_length")
        mends.append(f"accept the loss with --max_dropped {_round_up(share)}" if share < 1 else "give other rows")
        raise UserError(
            "--max_dropped",
            f"{num_affected} of {self.given} rows ({_percent(share)}) cannot be used as given: {reasons}",
            expected=f"at most {_percent(max_dropped)}",
            mend=f"{', '.join(mends[:-1])}, or {mends[-1]}; the first: {self._first_places()}",
        )

    def _first_places(self) -> str:
        """For the most frequent reasons the first entry in full, then the places of the next ones."""
        parts = []
        for action, reason in list(self.counts())[:_FIRST_PLACES]:
            entries = (e for e in self.entries if (e.action, e.reason) == (action, reason))
            first, *others = itertools.islice(entries, _FIRST_PLACES)
            also = f" (also {', '.join(str(entry.place) for entry in others)})" if others else ""
            parts.append(f"{first}{also}")
        return " | ".join(parts)

    def table(self, title: str = "Rows not used as given") -> Table:
        """The counts by reason with the first place of each, for printing with rich."""
        table = Table(title=title, caption=f"{self.given} rows given, {self.num_used} used, {self.num_cut} cut")
        for column in ("action", "reason"):
            table.add_column(column)
        for column in ("rows", "share"):
            table.add_column(column, justify="right")
        table.add_column("first", overflow="fold")
        firsts: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            firsts.setdefault((entry.action, entry.reason), entry)
        for (action, reason), count in self.counts().items():
            share = _percent(count / max(self.given, 1))
            # Text, not str: file names and details hold square brackets, which rich would read as markup.
            table.add_row(action, Text(reason), str(count), share, Text(str(firsts[action, reason])))
        return table

    def save(self, path: Path) -> None:
        """Write as JSON lines: first ``{"given": n}``, then one entry a line. Written aside and renamed.

        Raises UserError when the file cannot be written; what was there before is then untouched.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(self._lines()))
        except OSError as error:
            raise UserError(
                path,
                f"the ledger cannot be written: {error.strerror or error}",
                mend="free space or choose another folder",
            ) from error

    def _lines(self) -> Iterator[str]:
        yield json.dumps({"given": self.given}) + "\n"
        for entry in self.entries:
            row: dict[str, Any] = {"file": entry.place.file, "line": entry.place.line, "index": entry.place.index}
            row |= {"action": entry.action, "reason": entry.reason, "detail": entry.detail}
            yield json.dumps(row, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """The ledger that ``save`` wrote; raises UserError when the file is missing or damaged."""
        line_number = 0
        try:
            with path.open(encoding="utf-8") as file:
                ledger = cls()
                for line_number, line in enumerate(file, 1):
                    row = json.loads(line)
                    if line_number == 1:
                        ledger.given = int(row["given"])
                    elif row["action"] in get_args(Action):
                        place = Place(row["file"], line=row["line"], index=row["index"])
                        ledger.record(place, row["action"], row["reason"], row["detail"])
                    else:
                        raise ValueError(row["action"])
        except OSError as error:
            raise UserError(path, f"the ledger cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{line_number}",
                "this is not a line of a ledger",
                mend="delete the file and prepare the data again",
            ) from error
        if line_number == 0:
            raise UserError(path, "the ledger is empty", mend="delete the file and prepare the data again")
        return ledger


def _percent(share: float) -> str:
    return f"{share:.3%}".replace("%", " %") if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %")


def _round_up(share: float) -> float:
    """A limit with three decimals that ``share`` does not exceed."""
    return -(-share * 1000 // 1) / 1000
