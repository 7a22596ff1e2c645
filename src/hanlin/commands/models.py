"""``hanlin models``: the catalog as a table or as JSON. Imports no torch, so that it answers at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from hanlin.config.models import ModelsConfig
from hanlin.errors import UserError
from hanlin.model.catalog import nearest_ids, search
from hanlin.model.entry import Entry
from hanlin.model.register import with_registered


def run(config: ModelsConfig) -> int:
    """Print the entries that match; returns the exit status. Raises UserError when none does."""
    catalog = with_registered(config.register)
    words = " ".join(config.search)
    found = search(words, catalog)
    if not found:
        close = nearest_ids(words, catalog)
        raise UserError(
            words,
            "is in no entry of the catalog",
            mend=f"the nearest ids are {', '.join(close)}" if close else "any folder or hub id works with --model",
        )
    if config.json:
        print(json.dumps([_plain(entry) for entry in found], ensure_ascii=False, indent=2))
    else:
        show(Console(), found, len(catalog))
    return 0


def show(console: Console, entries: Sequence[Entry], num_known: int) -> None:
    """A row for each entry, and how to use one."""
    table = Table(box=None)
    table.add_column("--model_type", no_wrap=True)
    table.add_column("Hugging Face; ModelScope where it differs", overflow="fold", min_width=24)
    table.add_column("template", no_wrap=True)
    table.add_column("LoRA", no_wrap=True)
    table.add_column("notes", overflow="fold", min_width=10)
    for entry in entries:
        table.add_row(
            entry.id,
            _hub_ids(entry),
            entry.template or "",
            ",".join(entry.lora_target_modules),
            _notes(entry),
            style="dim" if entry.refusal else None,
        )
    # A narrow terminal breaks the lines itself; cut off, an id or a note would be lost.
    console.print(table, crop=False)
    console.print(
        f"{len(entries)} of {num_known} models. Without a template here: the tokenizer's own, else default. "
        "Any other folder or hub id works with --model.",
        highlight=False,
    )


def _hub_ids(entry: Entry) -> str:
    if entry.path:
        return entry.path
    if entry.huggingface is None:
        return f"; {entry.modelscope}"
    alike = entry.modelscope is None or entry.modelscope.lower() == entry.huggingface.lower()
    return entry.huggingface if alike else f"{entry.huggingface};\n{entry.modelscope}"


def _notes(entry: Entry) -> str:
    return "; ".join(part for part in (entry.quantization, entry.refusal and "not loaded", entry.notes) if part)


def _plain(entry: Entry) -> dict[str, object]:
    return {**asdict(entry), "refused": entry.refusal}
