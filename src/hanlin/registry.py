"""A table of named entries, filled while its module is imported and only read afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from hanlin.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to entries of one kind (``template``, ``format`` ...). An unknown name is answered with the nearest one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; a name can be taken only once."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def get_named(self, name: str, place: str) -> T:
        """The entry called ``name``; raises UserError at ``place`` when there is none."""
        if name not in self._entries:
            raise UserError(
                place,
                f"unknown {self.kind} {name!r}",
                expected=f"one of {', '.join(sorted(self._entries))}",
                mend=did_you_mean(name, self._entries),
            )
        return self._entries[name]

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
