"""Answers to many prompts, written so that an interrupted run loses little and a finished file is always whole."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError
from hanlin.files import write_json
from hanlin.infer.generate import Answer, PromptError
from hanlin.types import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question with where it came from; ``extra`` is copied to its line of the output."""

    messages: tuple[Message, ...]
    place: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Answerer(Protocol):
    """The part of the engine that a batch uses."""

    def describe(self) -> dict[str, Any]:
        """What answers: model, adapter, template, system prompt and identities."""

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text that the model reads."""

    def generate_batch(self, conversations: Sequence[Sequence[Message]], settings: GenerationSettings) -> list[Answer]:
        """One answer a conversation, in order."""


def answer_prompts(
    engine: Answerer,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    *,
    batch_size: int,
    start: int = 0,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the output for ``prompts[start:]``, a list for each batch.

    ``Input`` is the prompt as the model read it and ``Output`` the answer, taken from the new tokens and never by
    splitting text. A seed counts on with the place of the batch, so that batches do not repeat one draw.
    """
    for begin in range(start, len(prompts), batch_size):
        batch = prompts[begin : begin + batch_size]
        seed = None if settings.seed is None else (settings.seed + begin) % 2**63
        try:
            answers = engine.generate_batch(
                [prompt.messages for prompt in batch], dataclasses.replace(settings, seed=seed)
            )
        except PromptError as error:
            raise UserError(
                batch[error.index].place or "the prompt",
                error.problem,
                expected=error.expected,
                mend="shorten it or remove it, and start again: answers in a .jsonl file are kept",
            ) from error
        yield [_row(engine, prompt, answer) for prompt, answer in zip(batch, answers, strict=True)]


def _row(engine: Answerer, prompt: Prompt, answer: Answer) -> dict[str, Any]:
    return {
        "Input": engine.prompt_text(prompt.messages),
        "Output": answer.text,
        "instruction": prompt.messages[-1].content,
        **prompt.extra,
        "place": prompt.place,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_new_tokens": answer.num_new_tokens,
        "finish_reason": answer.finish_reason,
    }


def check_output(output: Path) -> None:
    """Make the folder of ``output`` and try to write in it, before any weight is loaded. Raises UserError."""
    if output.is_dir():
        raise UserError("--output", f"{output} is a folder", expected="the name of a file")
    probe = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError("--output", f"{output} cannot be written ({error.strerror})") from error


def write_answers(
    engine: Answerer,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    output: Path,
    *,
    batch_size: int,
    progress: Callable[[int], None],
    notify: Callable[[str], None],
) -> int:
    """Answer ``prompts`` into ``output``; returns the number of rows in it.

    ``.json``: one list, written whole at the end (``NAME.partial.json`` when the run is interrupted). ``.jsonl``: a
    line as soon as it is known; lines that are there already are kept and their prompts not asked again.
    ``progress`` is called with the number of rows that were done. Beside the output lies what made it
    (``NAME.settings.json``, NAME with its ending).
    """
    made_by = {**engine.describe(), "generation": dataclasses.asdict(settings)}
    if output.suffix.lower() == ".jsonl":
        return _append_lines(engine, prompts, settings, output, made_by, batch_size, progress, notify)
    rows: list[dict[str, Any]] = []
    try:
        for batch in answer_prompts(engine, prompts, settings, batch_size=batch_size):
            rows += batch
            progress(len(batch))
    except BaseException:
        # An older, complete file must not give way to a part of a new one.
        if rows:
            part = output.with_suffix(".partial.json")
            _write_whole(part, rows)
            notify(f"{part} holds the first {len(rows)} of {len(prompts)} answers")
        raise
    _write_whole(output, rows)
    _write_whole(settings_file(output), made_by)
    return len(rows)


def _append_lines(
    engine: Answerer,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    output: Path,
    made_by: Mapping[str, Any],
    batch_size: int,
    progress: Callable[[int], None],
    notify: Callable[[str], None],
) -> int:
    done = _rows_done(engine, prompts, output, made_by)
    if done:
        notify(f"{output} holds {done} of {len(prompts)} answers; continuing")
        progress(done)
    _write_whole(settings_file(output), made_by)
    try:
        with output.open("a", encoding="utf-8", newline="\n") as stream:
            for batch in answer_prompts(engine, prompts, settings, batch_size=batch_size, start=done):
                stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch))
                stream.flush()
                os.fsync(stream.fileno())
                progress(len(batch))
    except OSError as error:
        raise UserError(
            output,
            f"cannot be written ({error.strerror})",
            mend="free some space and run the command again: it continues after the last whole line",
        ) from error
    return len(prompts)


def _rows_done(engine: Answerer, prompts: Sequence[Prompt], output: Path, made_by: Mapping[str, Any]) -> int:
    """Answers that ``output`` holds already; a last line cut by a kill is removed. Raises UserError if they differ."""
    if not output.exists() or output.stat().st_size == 0:
        return 0
    before = settings_file(output)
    if before.is_file() and (different := _differences(before, made_by)):
        raise UserError(
            "--output",
            f"{output} was made with other settings ({', '.join(different)})",
            mend="choose another --output, or delete the file to start anew",
        )
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    if len(lines) > len(prompts):
        raise UserError(output, f"holds {len(lines)} answers, and there are {len(prompts)} prompts", mend=_OTHER)
    for number, (line, prompt) in enumerate(zip(lines, prompts, strict=False), start=1):
        try:
            known = json.loads(line)["Input"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{output}:{number}", "is not an answer that hanlin infer wrote", mend=_OTHER) from error
        if known != engine.prompt_text(prompt.messages):
            raise UserError(f"{output}:{number}", f"answers another prompt than {prompt.place}", mend=_OTHER)
    if len(whole) < len(content):
        with output.open("r+b") as stream:
            stream.truncate(len(whole))
    return len(lines)


_OTHER = "choose another --output, or delete the file to start anew"


def settings_file(output: Path) -> Path:
    """Where it is written what made ``output``: ``predictions.json.settings.json`` for ``predictions.json``."""
    return output.with_name(output.name + ".settings.json")


def _differences(before: Path, made_by: Mapping[str, Any]) -> list[str]:
    """Names of the settings in the file ``before`` that differ from ``made_by``; those of generation one by one."""
    try:
        old = json.loads(before.read_text(encoding="utf-8"))
        old, new = _flat(old), _flat(json.loads(json.dumps(made_by)))
    except (ValueError, AttributeError) as error:
        raise UserError(before, "is not valid JSON", mend="delete it to continue without this check") from error
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in values.items() if name != "generation"}, **values.get("generation", {})}


def _write_whole(file: Path, content: Any) -> None:
    """JSON to ``file``, aside and renamed, so that the old file stays whole until the new one is."""
    try:
        write_json(file, content, sort_keys=False)
    except OSError as error:
        raise UserError(file, f"cannot be written ({error.strerror})", mend="free some space") from error
