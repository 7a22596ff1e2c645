"""tokenizer.json files of 2023 that today's tokenizers library refuses: a Metaspace without ``prepend_scheme``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def repair(state: Any) -> int:
    """Mend every Metaspace in ``state`` (the parsed tokenizer.json, changed in place) and return their number.

    ``add_prefix_space`` said whether a space comes before the text; now ``prepend_scheme`` does, and a file that has
    the former with false and not the latter is refused (tokenizers 0.23).
    """
    if isinstance(state, list):
        return sum(map(repair, state))
    if not isinstance(state, dict):
        return 0
    if state.get("type") == "Metaspace":
        if "prepend_scheme" in state:
            return 0
        state["prepend_scheme"] = "always" if state.pop("add_prefix_space", True) else "never"
        state["split"] = True
        state.pop("str_rep", None)
        return 1
    return sum(repair(value) for key, value in state.items() if key not in ("model", "added_tokens"))


@contextmanager
def repaired_copy(folder: Path) -> Iterator[Path | None]:
    """A temporary folder with the tokenizer's files, repaired; None when there is nothing to repair."""
    try:
        state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = None
    if not repair(state):
        yield None
        return
    with TemporaryDirectory() as name:
        copy = Path(name)
        for path in (*folder.glob("*token*.json"), *folder.glob("config.json"), *folder.glob("*.jinja")):
            shutil.copyfile(path, copy / path.name)
        (copy / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
        yield copy
