"""What is seen while training: a progress bar, a metrics file, and a stop when the loss is no number."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hanlin.errors import UserError
from hanlin.files import finite


def peak_memory_bytes() -> int:
    """Peak memory of this process in bytes: of the GPU where one is used, else the resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows has no such module; psutil comes with accelerate
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts it in KiB


class ProgressBar(TrainerCallback):
    """One bar for the whole run: step, loss, tokens per second, peak memory, time left.

    Where the output is no terminal, a plain line is printed at every logging step instead.
    """

    def __init__(self, title: str, console: Console) -> None:
        self.title = title
        self.console = console
        self.progress: Progress | None = None
        self.facts = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.start()
            self.task = self.progress.add_task(
                self.title, total=state.max_steps, completed=state.global_step, facts=self.facts
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress:
            self.progress.update(self.task, completed=state.global_step, facts=self.facts)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        line = describe(logs)
        if not line:
            return
        if "loss" in logs:
            self.facts = line
        if self.progress:
            self.progress.update(self.task, facts=self.facts)
            if "eval_loss" in logs:
                self.progress.console.print(f"  step {state.global_step}: {line}", highlight=False)
        else:
            self.console.print(f"{self.title} {state.global_step}/{state.max_steps}: {line}", highlight=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the bar; safe to call twice."""
        if self.progress:
            self.progress.stop()
            self.progress = None


def describe(logs: dict[str, Any]) -> str:
    """The numbers of a log entry that a person looks at, on one line."""
    parts = []
    for name, label in (("loss", "loss"), ("eval_loss", "eval loss")):
        if name in logs:
            parts.append(f"{label} {logs[name]:.4f}")
    if "eval_accuracy" in logs:
        parts.append(f"accuracy {logs['eval_accuracy']:.3f}")
    if "eval_bits_per_byte" in logs:
        parts.append(f"bits/byte {logs['eval_bits_per_byte']:.3f}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "peak_memory_bytes" in logs:
        parts.append(f"{logs['peak_memory_bytes'] / 2**30:.2f} GiB")
    return " · ".join(parts)


class MetricsFile(TrainerCallback):
    """Every log entry as one JSON line of ``metrics.jsonl``. Resuming drops lines past the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                if line and json.loads(line)["step"] <= state.global_step:
                    kept.append(line + "\n")
        self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        entry = {"step": state.global_step, "epoch": state.epoch, "time": round(time.time(), 3), **logs}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite(entry), ensure_ascii=False, allow_nan=False) + "\n")


class StopOnNaN(TrainerCallback):
    """A loss that is no number ends the run when it is logged. Weights are looked at besides, whenever they are saved
    (``HanlinTrainer.check_finite``), so that the last checkpoint is always one to go on from."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise UserError(
                f"step {state.global_step}",
                f"the loss is {loss}",
                expected="a number",
                mend="lower --learning_rate, or use --bf16 in place of --fp16; continue from the last checkpoint",
            )
