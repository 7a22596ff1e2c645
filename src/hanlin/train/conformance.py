"""Before training: does the named template write what the checkpoint's own chat template writes, and does the run teach
a token at which generation stops?"""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanlin.config.data import OnTemplateDifference
from hanlin.errors import UserError
from hanlin.template import CHAT_TEMPLATE, Renderer
from hanlin.tokens.encode import encode_conversation, open_renderer
from hanlin.tokens.show import token_text
from hanlin.types import IGNORE_INDEX, Conversation, Encoded, Message, Place
from hanlin.vocab.tokenizer import TextTokenizer

_CONTEXT = 2
"""Equal tokens shown on either side of a difference."""
_MOST_ROWS = 40
"""Rows of the table of differences."""

_QUESTION = Message("user", "学而时习之, what does it mean?")
_ANSWER = Message("assistant", "To learn and to practise in time.")
_SYSTEM = Message("system", "You are a patient teacher. 你是一位老师。")
_NEXT = (Message("user", "再说一遍。"), Message("assistant", "学了要常常温习。"))

PROBES = (
    Conversation((_QUESTION, _ANSWER), Place("a question and its answer")),
    Conversation((_SYSTEM, _QUESTION, _ANSWER), Place("a question after a system text")),
    Conversation((_QUESTION, _ANSWER, *_NEXT), Place("two turns")),
)
"""What both templates have to write alike. Texts have no white space around them, which some templates strip."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One conversation that the two templates write differently."""

    probe: str
    named: list[int]
    own: list[int]


def settle_template(
    renderer: Renderer,
    tokenizer: TextTokenizer,
    *,
    system: str | None,
    choice: OnTemplateDifference,
    console: Console,
    now: datetime.datetime | None = None,
) -> Renderer:
    """The renderer to use: ``renderer`` where the checkpoint has no chat template or one that writes the same tokens.

    A difference is printed token by token. Then ``choice`` decides: the named template, the checkpoint's own, or stop
    with a UserError that says how to choose. What follows the last stop token is not compared: it is never trained.
    """
    if renderer.name == CHAT_TEMPLATE or tokenizer.chat_template is None:
        return renderer
    try:
        own = open_renderer(CHAT_TEMPLATE, tokenizer, system=system, now=now)
    except UserError as error:
        if choice == "own":
            raise
        _say(console, f"The checkpoint's own chat template cannot be compared with {renderer.name}: {error.reason}")
        return renderer
    found = list(differences(renderer, own, tokenizer))
    if not found:
        return renderer
    for difference in found:
        console.print(difference_table(difference, renderer.name, tokenizer))
    if choice == "stop":
        raise UserError(
            "--template",
            f"{renderer.name} writes other tokens than the checkpoint's own chat template "
            f"({', '.join(item.probe for item in found)})",
            mend="leave --template out for the checkpoint's own, or choose: --on_template_difference named, or own",
        )
    _say(console, f"Template: {renderer.name if choice == 'named' else 'the own one'}, by --on_template_difference")
    return renderer if choice == "named" else own


def differences(named: Renderer, own: Renderer, tokenizer: TextTokenizer) -> Iterator[Difference]:
    """The probes that both templates accept and write differently."""
    for probe in PROBES:
        try:
            rows = [encode_conversation(probe, renderer, tokenizer) for renderer in (named, own)]
        except UserError:
            continue  # one of them has no place for a system text: rows with one say so on the ledger
        ids = [row.ids[: _trained_end(row)] for row in rows]
        if ids[0] != ids[1]:
            yield Difference(str(probe.place), *ids)


def difference_table(difference: Difference, name: str, tokenizer: TextTokenizer) -> Table:
    """The tokens of both, side by side, where they differ and a little around."""
    table = Table(
        "", f"--template {name}", "own chat template", title=f"Tokens of {difference.probe}", title_style="bold"
    )
    rows = list(_aligned(difference.named, difference.own))
    wanted = {
        near
        for row, (left, right) in enumerate(rows)
        if left != right
        for near in range(row - _CONTEXT, row + _CONTEXT + 1)
    }
    chosen = [row for row in range(len(rows)) if row in wanted]
    before = -1
    for row in chosen[:_MOST_ROWS]:
        if row != before + 1:
            table.add_row("…", "", "")
        before = row
        left, right = rows[row]
        style = "dim" if left == right else "bold red"
        table.add_row(str(row), *(Text(_cell(index, tokenizer), style) for index in (left, right)))
    if len(chosen) > _MOST_ROWS or before < len(rows) - 1:
        table.add_row("…", "", "")
    return table


def _aligned(named: Sequence[int], own: Sequence[int]) -> Iterator[tuple[int | None, int | None]]:
    """Pairs of tokens that belong to each other; None where one of them has no counterpart."""
    matcher = difflib.SequenceMatcher(a=named, b=own, autojunk=False)
    for _, left, left_end, right, right_end in matcher.get_opcodes():
        for offset in range(max(left_end - left, right_end - right)):
            yield (
                named[left + offset] if left + offset < left_end else None,
                own[right + offset] if right + offset < right_end else None,
            )


def _cell(index: int | None, tokenizer: TextTokenizer) -> str:
    return "" if index is None else f"{index} {token_text(index, tokenizer)!r}"


def _trained_end(row: Encoded) -> int:
    return 1 + max((i for i, label in enumerate(row.labels) if label != IGNORE_INDEX), default=-1)


def check_stop(
    renderer: Renderer, tokenizer: TextTokenizer, directory: Path | None, console: Console
) -> tuple[str, ...]:
    """The tokens at which the run teaches answers to end: what is saved names them, for programs other than hanlin.

    Raises UserError when nothing that the run trains ends an answer: neither the template's stop, nor the tokenizer's
    EOS, nor an ``eos_token_id`` of the checkpoint in ``directory``. A line tells of a stop that the checkpoint does
    not know yet.
    """
    encoded = encode_conversation(PROBES[0], renderer, tokenizer)
    trained = {label for label in encoded.labels if label != IGNORE_INDEX}
    taught = [index for index in _ids_of(renderer.stop, tokenizer) if index in trained]
    configured = configured_stops(directory)
    ends = configured or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])
    everywhere = {*taught, *configured, *([] if tokenizer.eos_id is None else [tokenizer.eos_id])}
    if not trained & everywhere:
        named = ", ".join(_named(index, tokenizer) for index in sorted(everywhere)) or "none is known"
        raise UserError(
            "--template",
            f"{renderer.name} trains none of the tokens at which generation stops ({named})",
            expected="one of them after every answer",
            mend="name a template that writes it",
        )
    if ends and taught and not trained & set(ends):
        _say(
            console,
            f"This run teaches the model to stop at {_named(taught[0], tokenizer)}, where the checkpoint stops at "
            f"{', '.join(_named(index, tokenizer) for index in ends)}: the generation_config.json of the trained or "
            f'merged model says "eos_token_id": {json.dumps(list(dict.fromkeys([*taught, *ends])))}',
        )
    pieces = tokenizer.pieces()
    return tuple(pieces[index] for index in taught)


def configured_stops(directory: Path | None) -> list[int]:
    """``eos_token_id`` of the checkpoint's generation_config.json; nothing where there is none or it is no JSON."""
    try:
        text = (directory / "generation_config.json").read_text(encoding="utf-8") if directory else "{}"
        value = json.loads(text).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    values = value if isinstance(value, list) else [value]
    return [index for index in values if isinstance(index, int) and not isinstance(index, bool)]


def _ids_of(tokens: Sequence[str], tokenizer: TextTokenizer) -> list[int]:
    known = tokenizer.pieces()
    return [tokenizer.special_id(token) for token in tokens if token in known]


def _named(index: int, tokenizer: TextTokenizer) -> str:
    return f"{token_text(index, tokenizer)} ({index})" if 0 <= index < len(tokenizer) else str(index)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False)
