"""The one kind of error that a user sees: a line with place, problem, expectation and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR = 2
"""Exit status of every mistake that the user can mend."""


class UserError(Exception):
    """A mistake that the user can mend. Printed as one line, without a traceback; exit status 2.

    ``place`` is a file, a file with a line (``train.jsonl:118``) or a flag (``--max_length``); ``problem`` names the
    value that was found; ``expected`` and ``mend`` complete the sentence and may be empty where the problem says all.
    """

    def __init__(self, place: object, problem: str, *, expected: str = "", mend: str = "") -> None:
        self.place = str(place)
        self.problem = problem
        self.expected = expected
        self.mend = mend
        super().__init__(self._line())

    @property
    def reason(self) -> str:
        """The line without its place."""
        parts = [self.problem, f"expected {self.expected}" if self.expected else "", self.mend]
        return " ".join("; ".join(part for part in parts if part).split())

    def _line(self) -> str:
        return f"{self.place}: {self.reason}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A mend for an unknown name: the nearest known one, or nothing."""
    match = nearest(name, known)
    return f"did you mean {match}?" if match else ""
