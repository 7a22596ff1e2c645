"""``hanlin merge``: check, merge shard by shard, prove, report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hanlin.config.merge import MergeConfig
from hanlin.export.merge import MergeReport, write_merge
from hanlin.export.merge import Progress as OnProgress
from hanlin.export.plan import MergePlan, plan_merge
from hanlin.export.shards import check_target
from hanlin.model.choose import choose_model
from hanlin.model.precision import DTYPES


def run(config: MergeConfig) -> int:
    """Merge as ``config`` says; returns the exit status. Raises UserError."""
    console = Console(stderr=True)
    choice = choose_model(
        config.model, config.model_type, config.hub, revision=config.revision, cache_dir=config.cache_dir
    )
    for notice in choice.notices:
        print(notice, file=sys.stderr)
    inputs = [Path(path) for path in (*config.adapter, *([choice.model] if choice.model else []))]
    check_target(Path(config.output_dir), inputs, overwrite=config.overwrite)
    with console.status("reading base and adapters"):
        plan = plan_merge(
            choice.model,
            config.adapter,
            tokenizer=config.tokenizer,
            dtype=None if config.dtype == "auto" else DTYPES[config.dtype],
            allow_other_base=config.allow_other_base,
            access=choice.access,
            chosen_hub=config.hub.use_hf is not None,
            variant=config.variant,
            family=choice.entry.family if choice.entry else None,
        )
    show_plan(console, plan)
    with progress_bars(console) as progress:
        report = write_merge(
            plan,
            config.output_dir,
            output_type=config.output_type,
            max_shard_bytes=config.max_shard_bytes,
            num_shards=config.num_shards,
            proof=config.proof,
            overwrite=config.overwrite,
            progress=progress,
        )
    if config.verbose:
        show_tensors(console, report)
    show_changes(console, report)
    show_proof(console, report)
    for notice in report.notices[len(plan.notices) :]:
        print(notice, file=sys.stderr)
    print(report.output_dir)
    return 0


def show_plan(console: Console, plan: MergePlan) -> None:
    """Base, adapters in order, vocabulary, and what the user should know before the work starts."""
    console.print(f"base      {plan.base_folder} ({plan.base.nbytes / 1e9:.2f} GB)", highlight=False, soft_wrap=True)
    for position, step in enumerate(plan.steps, start=1):
        kept = f"{len(step.pairs)} low-rank updates, {len(step.full)} modules in full"
        console.print(f"adapter {position} {step.adapter.directory} ({kept})", highlight=False, soft_wrap=True)
    console.print(f"rows      {plan.record.base_vocab_rows} -> {plan.vocab_rows}", highlight=False, soft_wrap=True)
    for notice in plan.notices:
        print(notice, file=sys.stderr)


@contextmanager
def progress_bars(console: Console) -> Iterator[OnProgress]:
    """One bar a stage, made when the stage first reports."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def show_tensors(console: Console, report: MergeReport) -> None:
    """A line for every tensor that changed."""
    for change in report.changes:
        if change.kind != "kept":
            relative = (change.change / change.weight) ** 0.5 if change.weight else 0.0
            rows = f", {change.new_rows} new rows" if change.new_rows else ""
            console.print(
                f"{change.name}: {change.kind}, moved by {relative:.3g}{rows}", highlight=False, soft_wrap=True
            )


def show_changes(console: Console, report: MergeReport) -> None:
    """Per kind of module: the norm of the change relative to the norm of the weight."""
    table = Table("module", "tensors", "change / weight", "new rows", box=None)
    for module, (tensors, relative, rows) in report.by_module().items():
        table.add_row(module, str(tensors), f"{relative:.4g}", str(rows or ""))
    console.print(table)
    counts = ", ".join(f"{report.count(kind)} {kind}" for kind in ("updated", "replaced", "added", "kept"))
    console.print(f"tensors: {counts}", highlight=False, soft_wrap=True)


def show_proof(console: Console, report: MergeReport) -> None:
    """What was proved, in words."""
    weights, logits = report.weights_proof, report.logits_proof
    if weights is None:
        console.print("no proof was made (--proof none)")
    else:
        console.print(
            f"proved: {weights.num_tensors} tensors read back; {weights.num_equal} are copies, bit for bit; "
            f"the others differ from base + update by at most {weights.worst:.2g} of the rounding allowed",
            highlight=False,
            soft_wrap=True,
        )
    if logits is not None:
        console.print(
            f"proved: logits differ from base + adapter by {logits.difference:.2g} of their size (allowed "
            f"{logits.tolerance:.2g}; the adapter itself moves them by {logits.effect:.2g}); same most likely token at "
            f"{logits.agreement:.1%} of {logits.num_positions} positions",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"identity of the weights: {report.identity}", highlight=False, soft_wrap=True)
