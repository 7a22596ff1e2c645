"""``hanlin infer``: read the prompts, open the model, answer, write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hanlin.config.infer import InferConfig
from hanlin.data.faults import RowFault, require_text
from hanlin.data.formats import read_alpaca, read_messages
from hanlin.data.rows import ROW_READERS
from hanlin.data.streams import compression_of, read_lines, suffix_of
from hanlin.errors import UserError
from hanlin.infer.batch import Prompt, check_output, write_answers
from hanlin.infer.engine import open_configured
from hanlin.types import Message, Place

DEFAULT_OUTPUT = "predictions.json"


def run(config: InferConfig) -> int:
    """Answer the prompts; returns the exit status."""
    prompts = (
        [Prompt((Message("user", config.prompt),), "--prompt")] if config.prompt else read_prompts(config.prompts or "")
    )
    output = Path(config.output or DEFAULT_OUTPUT).expanduser()
    if config.prompts or config.output:
        check_output(output)
    engine = open_configured(config.engine, notify=_say)
    if config.prompt and not config.output:
        for piece in engine.stream(prompts[0].messages, config.generation):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return 0
    with _progress() as progress:
        task = progress.add_task("answers", total=len(prompts))
        written = write_answers(
            engine,
            prompts,
            config.generation,
            output,
            batch_size=config.batch_size,
            progress=lambda done: progress.advance(task, done),
            notify=lambda line: progress.console.print(line, markup=False, highlight=False),
        )
    _say(f"{written} answers in {output}")
    return 0


def read_prompts(name: str) -> list[Prompt]:
    """The prompts of a file, in order: lines of ``.txt``, or rows of ``.json``, ``.jsonl`` and ``.parquet``.

    A row is a string, an Alpaca record or one with messages; an answer in it is not shown to the model and is kept as
    ``reference``. Blank lines of a text file are skipped. Raises UserError at the first row that cannot be used,
    because a missing answer would shift all that follow.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError("--prompts", f"{name} {problem}", expected="a .txt, .json or .jsonl file")
    suffix = suffix_of(path)
    if suffix == ".txt":
        lines = ((Place(str(path), line=line.number), line.text.rstrip("\r\n")) for line in read_lines(path))
        prompts = [Prompt((Message("user", text),), str(place)) for place, text in lines if text.strip()]
    elif suffix in ROW_READERS:
        rows = ROW_READERS[suffix](path, lambda _, columns: columns)
        prompts = [_prompt(place, row) for place, row in rows]
    else:
        kinds = ", ".join((".txt", *ROW_READERS))
        packed = f" before {compression_of(path)}" if compression_of(path) else ""
        raise UserError("--prompts", f"{name} ends in {suffix or 'nothing'!r}{packed}", expected=f"one of {kinds}")
    if not prompts:
        raise UserError(path, "holds no prompt", expected="at least one")
    return prompts


def _prompt(place: Place, row: Any) -> Prompt:
    """One row as a prompt. Raises UserError at its place."""
    try:
        if isinstance(row, RowFault):
            raise row
        if isinstance(row, str):
            return Prompt(_asked(read_alpaca, {"instruction": row, "output": _UNANSWERED}, place), str(place))
        if not isinstance(row, dict):
            raise UserError(place, f"is {type(row).__name__}", expected="text, an Alpaca record or one with messages")
        if "messages" in row:
            return _from_messages(row, place)
        if "instruction" in row:
            reference = row.get("output")
            extra = {} if reference in (None, "") else {"reference": require_text(reference, "output")}
            return Prompt(_asked(read_alpaca, {**row, "output": _UNANSWERED}, place), str(place), extra)
    except RowFault as fault:
        raise UserError(place, fault.detail) from None
    raise UserError(place, f"has the fields {', '.join(row) or 'none'}", expected="instruction, or messages")


_UNANSWERED = "?"
"""Stands for the answer while a row is read by the readers of training data, which want one; never shown to a model."""


def _from_messages(row: Mapping[str, Any], place: Place) -> Prompt:
    messages = row["messages"]
    extra: dict[str, Any] = {}
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        if messages[-1].get("role") == "assistant":
            extra = {"reference": messages[-1].get("content")}
            messages = messages[:-1]
        messages = [*messages, {"role": "assistant", "content": _UNANSWERED}]
    return Prompt(_asked(read_messages, {**row, "messages": messages}, place), str(place), extra)


def _asked(
    read: Callable[[Mapping[str, Any], Place], Any], row: Mapping[str, Any], place: Place
) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = read(row, place).messages
    return messages[:-1]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
