"""``hanlin templates`` and ``hanlin template show``: which templates there are, and what one makes of a row."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanlin.commands.fetched import fetched_tokenizer
from hanlin.config.templates import TemplatesConfig, TemplateShowConfig
from hanlin.data.faults import RowFault
from hanlin.data.formats import detect_format, known_keys, read_row
from hanlin.errors import UserError, did_you_mean
from hanlin.template import TEMPLATES, Renderer, Template
from hanlin.template.form import OTHER_NAMES
from hanlin.tokens.encode import encode_conversation, open_renderer
from hanlin.tokens.show import paint, shown_tokens
from hanlin.types import Conversation, Place

SAMPLE = {
    "messages": [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！What can I do for you?"},
        {"role": "user", "content": "1 + 1 = ?"},
        {"role": "assistant", "content": "2"},
    ]
}
SAMPLE_OF_ONE_TURN = {"messages": SAMPLE["messages"][:2]}
"""For templates that write a single turn."""


def show_all(config: TemplatesConfig) -> int:
    """Print the table or the JSON of the templates; returns the exit status."""
    wanted = (config.search or "").lower()
    found = [
        template
        for template in TEMPLATES.values()
        if wanted in " ".join((template.name, *template.also, template.family)).lower()
    ]
    if not found:
        raise UserError(
            "hanlin templates",
            f"none has {config.search!r} in its name or family",
            mend=did_you_mean(wanted, [*TEMPLATES, *OTHER_NAMES]) or "see them all with hanlin templates",
        )
    if config.json:
        json.dump([_fields(template) for template in found], sys.stdout, ensure_ascii=False, indent=2)
        sys.stdout.write("\n")
        return 0
    table = Table("name", "family", "system", "stop", "source")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for template in found:
        name = "\n".join((template.name, *template.also))
        stops = " ".join(template.stops).replace("{eos}", "EOS")
        cells = (name, template.family, _system_of(template), stops, template.source)
        table.add_row(*(Text(cell) for cell in cells))
    Console(highlight=False).print(table)
    return 0


def show(config: TemplateShowConfig) -> int:
    """Print the tokens of one row; returns the exit status."""
    tokenizer = fetched_tokenizer(config.tokenizer, "--tokenizer", config.hub)
    renderer = open_renderer(config.name, tokenizer, system=config.system, place="hanlin template show NAME")
    conversation = _conversation(config.row, renderer)
    encoded = encode_conversation(conversation, renderer, tokenizer, train_on=config.train_on)
    console = Console(highlight=False, soft_wrap=True)
    console.print(paint(shown_tokens(encoded, tokenizer), ids=config.ids))
    console.print(
        f"{renderer.name}: {len(encoded.ids)} tokens, {encoded.num_trained} trained ⟦…⟧; "
        f"generation stops at {' '.join(renderer.stop)}",
        markup=False,
    )
    return 0


def _conversation(row: str | None, renderer: Renderer) -> Conversation:
    """The conversation of ``--row``, or the sample. Raises UserError for text that is no row."""
    if row is None:
        single = renderer.name in TEMPLATES and TEMPLATES[renderer.name].separator is None
        value: Any = SAMPLE_OF_ONE_TURN if single else SAMPLE
    else:
        try:
            value = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError("--row", f"is no JSON: {error}", mend="put it in single quotes: --row '{…}'") from None
    row_format = detect_format(list(value)) if isinstance(value, dict) else None
    if row_format is None:
        raise UserError("--row", "is of no known format", expected=f"an object with {known_keys()}")
    try:
        return read_row(value, Place("--row"), row_format)
    except RowFault as fault:
        raise UserError("--row", f"{fault.reason}: {fault.detail}") from None


def _system_of(template: Template) -> str:
    """What a system text finds: no place, a place that is empty by default, or a default text."""
    if not template.has_system_slot:
        return "no place"
    return "default text" if template.system else "yes"


def _fields(template: Template) -> dict[str, Any]:
    """The entry as JSON values, with what follows from it."""
    return {**asdict(template), "has_system_slot": template.has_system_slot, "stops": template.stops}
