"""The named models: what ``--model_type ID`` stands for. Data and look-up only; importing this imports no torch.

The entries lie in one file per age, each entry in one place: ``catalog_2023`` (the ids of the older tool) and
``catalog_today``. A user's own entries come from files (``model/register.py``) and stand beside these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from hanlin.errors import UserError
from hanlin.model.catalog_2023 import ENTRIES_2023
from hanlin.model.catalog_today import ENTRIES_TODAY
from hanlin.model.entry import Entry
from hanlin.registry import Registry

CATALOG: Registry[Entry] = Registry("model")

for _entry in (*ENTRIES_2023, *ENTRIES_TODAY):
    CATALOG.add(_entry.id, _entry)


def find_entry(name: str, catalog: Mapping[str, Entry] = CATALOG) -> Entry | None:
    """The entry whose hub id (on either hub) is ``name``, upper and lower case alike; None when no entry has it."""
    wanted = name.strip("/").lower()
    for entry in catalog.values():
        if wanted in {hub_id.lower() for hub_id in entry.hub_ids()}:
            return entry
    return None


def nearest_ids(name: str, catalog: Mapping[str, Entry] = CATALOG, *, count: int = 4) -> list[str]:
    """The ids most like ``name``, the best first; none when nothing is close."""
    return difflib.get_close_matches(name.lower(), list(catalog), n=count, cutoff=0.6)


def unknown_id(name: str, place: str, catalog: Mapping[str, Entry] = CATALOG) -> UserError:
    """The error for an id that nothing is called."""
    close = nearest_ids(name, catalog)
    return UserError(
        place,
        f"unknown model {name!r}",
        expected="an id that hanlin models lists",
        mend=f"the nearest are {', '.join(close)}" if close else "name a folder or a hub id with --model instead",
    )


def search(text: str, catalog: Mapping[str, Entry] = CATALOG) -> list[Entry]:
    """Entries in which every word of ``text`` occurs (id, hub ids, family, template, quantisation), in order."""
    words = text.lower().split()
    return [entry for entry in catalog.values() if all(word in _searched(entry) for word in words)]


def _searched(entry: Entry) -> str:
    parts: Iterable[str | None] = (*entry.hub_ids(), entry.id, entry.family, entry.template, entry.quantization)
    return " ".join(part for part in parts if part).lower()
