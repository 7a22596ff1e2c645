"""``hanlin demo``: the verbs one after the other on shipped text, then the same questions before and after."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hanlin import __version__
from hanlin.config.demo import DemoConfig
from hanlin.config.infer import GenerationSettings
from hanlin.demo.facts import Question, read_task, sample
from hanlin.demo.recipe import COPIED, DATA, HELD_OUT, QUESTIONS, SYSTEM, TEMPLATE, TEXT_FOLDER, Stage, stages
from hanlin.demo.report import SEEN, Answered, Curve, Measure, Report, StageTime, printable, render
from hanlin.errors import UserError
from hanlin.types import Message

if TYPE_CHECKING:
    from hanlin.infer.engine import Engine

REPORT_FILE = "report.html"
RESULTS_FILE = "demo.json"
"""Marks a folder as the demo's own: only in such a folder is anything ever replaced."""
CACHE_FOLDER = "token_cache"
"""Where pt and sft keep prepared tokens: beside their output folders."""

ENGLISH_MODEL, CHINESE_MODEL, CHAT_MODEL = "english-model", "chinese-model", "chat-model"

NUM_SAMPLED = 60
"""Questions drawn for the score, of each kind."""

GREEDY_FLAGS = ("--temperature", "0", "--repetition_penalty", "1")
GREEDY = GenerationSettings(do_sample=False, repetition_penalty=1.0, max_new_tokens=24)


def run(config: DemoConfig) -> int:
    """Run all stages, ask, write the report; returns the exit status. Raises UserError."""
    console = Console(highlight=False)
    folder = Path(config.output_dir).expanduser()
    recipe = stages(folder, seed=config.seed, fast=config.fast)
    _claim(folder, recipe, overwrite=config.overwrite)
    clock = _Clock(console, num_stages=len(recipe) + 2)  # loading before, questions after
    with clock.stage("Loading the libraries"), console.status("loading torch and transformers"):
        run_verb = _load_verbs()
    with _one_thread():
        for stage in recipe:
            with clock.stage(stage.title, stage.command):
                console.print(f"[dim]{escape(stage.command)}[/dim]", soft_wrap=True)
                run_verb(stage)
        with clock.stage("The same questions before and after"):
            report = _examine(folder, recipe, config, console)
    report = dataclasses.replace(report, stages=tuple(clock.times))
    path = _write_results(folder, report)
    _show(console, report, path)
    return 0


def _claim(folder: Path, recipe: Sequence[Stage], *, overwrite: bool) -> None:
    """Make ``folder`` ready and copy the shipped text into it. Raises UserError for one that holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise UserError("--output_dir", f"{folder} is a file", expected="the name of a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RESULTS_FILE).is_file():
            raise UserError(
                "--output_dir",
                f"{folder} holds files that are not of a demo",
                expected="a new or empty folder",
                mend="name another one",
            )
        if not overwrite:
            finished = (folder / REPORT_FILE).is_file()
            raise UserError(
                "--output_dir",
                f"{folder} holds {'an earlier' if finished else 'an unfinished'} run of the demo",
                mend=(f"look at {folder / REPORT_FILE}, or " if finished else "") + "add --overwrite to run again",
            )
        # Only what a demo writes: a person may have put something beside it.
        for name in (TEXT_FOLDER, CACHE_FOLDER, *(stage.name for stage in recipe)):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / REPORT_FILE).unlink(missing_ok=True)
    try:
        (folder / TEXT_FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / RESULTS_FILE).write_text("{}\n", encoding="utf-8")
        for name in COPIED:
            shutil.copyfile(DATA / name, folder / TEXT_FOLDER / name)
    except OSError as error:
        raise UserError("--output_dir", f"{folder} cannot be written: {error.strerror or error}") from error


class _Clock:
    """Announces the stages, counts them and keeps their times."""

    def __init__(self, console: Console, *, num_stages: int) -> None:
        self.console = console
        self.times: list[StageTime] = []
        self._num_stages = num_stages

    @contextmanager
    def stage(self, title: str, command: str = "") -> Iterator[None]:
        """One stage: a headline before, a time after."""
        number = len(self.times) + 1
        done = "━" * number + "[dim]" + "━" * (self._num_stages - number) + "[/dim]"
        self.console.print()
        self.console.rule(f"[bold]{number}/{self._num_stages} {escape(title)}[/bold] {done}", align="left")
        start = time.perf_counter()
        yield
        self.times.append(StageTime(title, command, time.perf_counter() - start))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread. The matrices are so small that a second one gains seconds on a quiet machine,
    and on a busy one its waiting at every operation costs minutes (two cores at load 6: 156 s with one, 258 s with
    two)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_verbs() -> Callable[[Stage], None]:
    """Import the verbs that the stages use; the result runs a stage as its command line would."""
    from hanlin.commands import merge, pt, sft, tokenizer
    from hanlin.config.merge import MergeConfig
    from hanlin.config.parse import parse
    from hanlin.config.runs import PtConfig, SftConfig
    from hanlin.config.tokenizer import TokenizerExtend, TokenizerTrain

    verbs: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
        "tokenizer train": (TokenizerTrain, tokenizer.train),
        "tokenizer extend": (TokenizerExtend, tokenizer.extend),
        "pt": (PtConfig, pt.run),
        "sft": (SftConfig, sft.run),
        "merge": (MergeConfig, merge.run),
    }

    def run_verb(stage: Stage) -> None:
        config_class, command = verbs[stage.verb]
        settings, _ = parse(config_class, list(stage.arguments))
        command(settings)

    return run_verb


def _examine(folder: Path, recipe: Sequence[Stage], config: DemoConfig, console: Console) -> Report:
    """Ask the models, measure them, and put together all that the report shows but the times."""
    asked = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    drawn = sample(read_task(), NUM_SAMPLED if not config.fast else 4, seed=config.seed)
    held_out = [line for line in HELD_OUT.read_text(encoding="utf-8").splitlines() if line]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("asking and measuring", total=3 + 2 * len(asked) + len(drawn))
        engines = {name: _open(folder / name) for name in (ENGLISH_MODEL, CHINESE_MODEL, CHAT_MODEL)}

        def ask(name: str, questions: Sequence[str]) -> list[str]:
            answers = []
            for begin in range(0, len(questions), 30):
                answers += _ask(engines[name], questions[begin : begin + 30])
                progress.advance(task, len(questions[begin : begin + 30]))
            return answers

        before = ask(ENGLISH_MODEL, [row["question"] for row in asked])
        after = ask(CHAT_MODEL, [row["question"] for row in asked])
        sampled = ask(CHAT_MODEL, [question.text for question in drawn])
        bits = []
        for name in engines:
            bits.append(bits_per_byte(engines[name], held_out))
            progress.advance(task)
    answers = tuple(
        Answered(row["question"], row["gloss"], row["seen"], row["answer"], one, two)
        for row, one, two in zip(asked, before, after, strict=True)
    )
    english, chat = engines[ENGLISH_MODEL], engines[CHAT_MODEL]
    return Report(
        stages=(),
        measures=_measures(english, chat, bits, held_out),
        curves=tuple(Curve(s.curve, _losses(folder / s.name)) for s in recipe if s.curve),
        answers=answers,
        scores=_scores(drawn, sampled),
        chat=shlex.join(["hanlin", "chat", str(folder / CHAT_MODEL), *GREEDY_FLAGS]),
        facts=_facts(english, chat, config),
        complete=not config.fast,
    )


def _open(model: Path) -> Engine:
    from hanlin.infer.engine import open_engine

    return open_engine(str(model), template=TEMPLATE, system=SYSTEM, device="cpu")


def _ask(engine: Engine, questions: Sequence[str]) -> list[str]:
    """Greedy answers to ``questions``."""
    conversations = [(Message("user", question),) for question in questions]
    return [answer.text for answer in engine.generate_batch(conversations, GREEDY)]


def bits_per_byte(engine: Engine, texts: Sequence[str]) -> float:
    """Negative log-likelihood of ``texts`` under the model, in bits per UTF-8 byte of the texts.

    Each text is read by itself after BOS, and the end of a text is not predicted. Unlike the loss per token, the
    number can be compared between vocabularies: the bytes are the same, however many tokens spell them.
    """
    import torch

    tokenizer, total, num_bytes = engine.tokenizer, 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)]])
        with torch.inference_mode():
            logits = engine.model(input_ids=ids.to(engine.model.device), use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits.float().cpu(), ids[0, 1:], reduction="sum").item()
        num_bytes += len(text.encode())
    return total / math.log(2) / num_bytes


def _measures(english: Engine, chat: Engine, bits: Sequence[float], held_out: Sequence[str]) -> tuple[Measure, ...]:
    """Tokens per character and bits per byte, before and after, on text that was not trained."""
    from hanlin.vocab.measure import measure

    texts = [(str(number), text) for number, text in enumerate(held_out)]
    old, new = (measure(engine.tokenizer, texts).tokens_per_character for engine in (english, chat))
    names = ("English model", "after pre-training", "after tuning")
    return (
        Measure(
            "Tokens per character",
            "Tokens for one character of Chinese text that no stage trained on",
            f"The English vocabulary of {len(english.tokenizer):,} tokens spells a Chinese character in 3 bytes; "
            f"{len(chat.tokenizer) - len(english.tokenizer):,} pieces were added.",
            (("before", old), ("after", new)),
        ),
        Measure(
            "Bits per byte",
            "Bits that the model needs for one byte (UTF-8) of the same held-out text; fewer are better",
            "8 would be guessing every byte blindly. The English model is worse than that: it never met these bytes "
            "and is sure that they will not come. Tuning on short answers takes back a part of what pre-training "
            "gave, as the tuning data holds no running text.",
            tuple(zip(names, bits, strict=True)),
        ),
    )


def _losses(folder: Path) -> list[tuple[float, float]]:
    """(step, loss) of a run, from its metrics."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def _scores(drawn: Sequence[Question], answers: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Per kind of question: answered right, asked."""
    scores = []
    for seen in SEEN:
        marks = [
            text.strip() == question.answer
            for question, text in zip(drawn, answers, strict=True)
            if question.seen == seen
        ]
        scores.append((seen, sum(marks), len(marks)))
    return tuple(scores)


def _facts(english: Engine, chat: Engine, config: DemoConfig) -> tuple[tuple[str, str], ...]:
    import torch
    import transformers

    def parameters(engine: Engine) -> str:
        return f"{sum(weight.numel() for weight in engine.model.parameters()):,} parameters"

    return (
        ("model before", f"{parameters(english)}, {len(english.tokenizer):,} tokens"),
        ("model after", f"{parameters(chat)}, {len(chat.tokenizer):,} tokens"),
        ("seed", str(config.seed)),
        ("threads", str(torch.get_num_threads())),
        ("versions", f"hanlin {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"),
        ("Python", f"{platform.python_version()} on {platform.machine()}"),
    )


def _write_results(folder: Path, report: Report) -> Path:
    """Write report.html and demo.json; returns the path of the page. Raises UserError when they cannot be written."""
    results = {
        "seconds": {stage.title: round(stage.seconds, 2) for stage in report.stages},
        "measures": {measure.title: dict(measure.values) for measure in report.measures},
        "scores": {seen: {"right": right, "asked": asked} for seen, right, asked in report.scores},
        "answers": [
            {"question": a.question, "seen": a.seen, "expected": a.expected, "before": a.before, "after": a.after}
            for a in report.answers
        ],
    }
    page = folder / REPORT_FILE
    try:
        page.write_text(render(report), encoding="utf-8")
        (folder / RESULTS_FILE).write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(folder, f"the report cannot be written: {error.strerror or error}") from error
    return page


def _show(console: Console, report: Report, page: Path) -> None:
    """The report in short, for the terminal."""
    table = Table(title="the same questions, before and after")
    for heading in ("question", "before", "after", ""):
        table.add_column(heading, overflow="fold")
    for answer in report.answers:
        mark = "[green]right[/green]" if answer.right_after else "[red]wrong[/red]"
        before = escape(printable(answer.before, 24))
        table.add_row(escape(answer.question), f"[dim]{before}[/dim]", escape(printable(answer.after, 40)), mark)
    console.print()
    console.print(table)
    for seen, right, asked in report.scores:
        console.print(f"  {right:>3} of {asked} drawn at random right: {SEEN[seen]}")
    for measure in report.measures:
        values = " → ".join(f"{value:.2f} ({name})" for name, value in measure.values)
        console.print(f"{measure.title}: {values}")
    times = Table("stage", "seconds", box=None)
    for stage in report.stages:
        times.add_row(escape(stage.title), f"{stage.seconds:7.1f}")
    times.add_row("[bold]all together[/bold]", f"[bold]{sum(s.seconds for s in report.stages):7.1f}[/bold]")
    console.print(times)
    if not report.complete:
        console.print("--fast: a few steps a stage, so the answers are not right")
    console.print(f"Report: {escape(str(page))}", soft_wrap=True)
    console.print(f"Talk with it: {escape(report.chat)}", soft_wrap=True)
