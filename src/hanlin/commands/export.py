"""``hanlin export``: check, write shard by shard, prove, report."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from hanlin.commands.merge import progress_bars
from hanlin.config.export import ExportConfig
from hanlin.export.native import NativePlan, NativeReport, plan_native, write_native
from hanlin.export.shards import check_target
from hanlin.model.choose import choose_model


def run(config: ExportConfig) -> int:
    """Export as ``config`` says; returns the exit status. Raises UserError."""
    console = Console(stderr=True)
    choice = choose_model(
        config.model, config.model_type, config.hub, revision=config.revision, cache_dir=config.cache_dir
    )
    for notice in choice.notices:
        print(notice, file=sys.stderr)
    assert choice.model is not None, "the configuration asks for a model"
    check_target(Path(config.output_dir), [Path(choice.model)], overwrite=config.overwrite)
    plan = plan_native(
        choice.model,
        tokenizer=config.tokenizer,
        template=choice.entry.template if choice.entry else None,
        access=choice.access,
        variant=config.variant,
        family=choice.entry.family if choice.entry else None,
    )
    show_plan(console, plan)
    with progress_bars(console) as progress:
        report = write_native(
            plan,
            config.output_dir,
            max_shard_bytes=config.max_shard_bytes,
            proof=config.proof,
            overwrite=config.overwrite,
            progress=progress,
        )
    show_report(console, plan, report)
    print(report.output_dir)
    return 0


def show_plan(console: Console, plan: NativePlan) -> None:
    """What the checkpoint is and what it becomes."""
    size = plan.weights.nbytes / 1e9
    _line(console, f"checkpoint {plan.folder} ({plan.weights.family.title}, {size:.2f} GB)")
    where = "in transformers" if plan.is_plain else "of hanlin, which plain transformers knows after register()"
    _line(console, f"becomes    {plan.config.model_type}: {plan.weights.family.native.__name__} {where}")
    for notice in plan.notices:
        print(notice, file=sys.stderr)


def show_report(console: Console, plan: NativePlan, report: NativeReport) -> None:
    """What was written and what was proved, in words."""
    if not report.is_proved:
        _line(console, "no proof was made (--proof none)")
    else:
        _line(
            console, f"proved: {report.num_tensors} tensors read back are those of the checkpoint, put together again"
        )
    proof = report.logits_proof
    if proof is not None:
        by = "plain transformers" if plan.is_plain else "hanlin"
        _line(
            console,
            f"proved: loaded by {by}, its logits differ from the checkpoint's by {proof.difference:.2g} of their size "
            f"(allowed {proof.tolerance:.2g}), at {proof.num_positions} positions",
        )
    for notice in report.notices[len(plan.notices) :]:
        print(notice, file=sys.stderr)
    _line(console, f"identity of the weights: {report.identity}")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
