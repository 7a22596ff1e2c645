"""How long and how the weights are trained, and where the results go.

Fields have the names and units of transformers' TrainingArguments; every other field of those passes through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Length, batch, optimizer, logging, evaluation and saving."""

    output_dir: str
    """Folder of everything the run leaves."""
    overwrite_output_dir: bool = False
    """Start anew although --output_dir holds a run. Without it a folder with checkpoints is continued."""
    resume_from_checkpoint: str | None = None
    """Continue from a checkpoint folder; last: the newest whole one in --output_dir."""
    do_train: bool = True
    """Train. With --do_train false and --do_eval the model is only evaluated."""
    do_eval: bool | None = None
    """Evaluate. Default: when there are validation rows."""
    seed: int = 42
    """Seed of the weights, the order of the rows and the split."""
    num_train_epochs: float = 1.0
    """Passes over the training rows."""
    max_steps: int = -1
    """Optimizer steps; above 0 it wins over --num_train_epochs."""
    per_device_train_batch_size: int = 1
    """Rows (or blocks) of one step on one device."""
    per_device_eval_batch_size: int | None = None
    """Rows of one evaluation step. Default: as in training."""
    gradient_accumulation_steps: int = 1
    """Batches added up before an optimizer step."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    lr_scheduler_type: str = "cosine"
    """Shape of the learning rate: cosine, linear, constant_with_warmup ..."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises, as a fraction."""
    warmup_steps: int = 0
    """Optimizer steps in which the learning rate rises; above 0 it wins over --warmup_ratio."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient."""
    fp16: bool = False
    """Mixed precision in float16. On a CPU it becomes bfloat16, with a line that says so."""
    bf16: bool = False
    """Mixed precision in bfloat16."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    logging_steps: float = 10
    """Optimizer steps between two log lines."""
    logging_first_step: bool = True
    """Log the first step too."""
    eval_strategy: Literal["no", "steps", "epoch"] | None = None
    """When to evaluate. Default: steps when there are validation rows and --eval_steps is given, else epoch."""
    eval_steps: float | None = None
    """Optimizer steps between two evaluations."""
    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    """When to save a checkpoint."""
    save_steps: float = 500
    """Optimizer steps between two checkpoints."""
    save_total_limit: int | None = 3
    """Checkpoints kept; the best and the last are always among them."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl: tensorboard, none, or another tracker of transformers."""
    deepspeed: str | None = None
    """DeepSpeed configuration file. Not needed, and not used, by a run of one process without the package."""

    def __post_init__(self) -> None:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}", f"is {getattr(self, name)}", expected="1 or more")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"--{name}", f"is {getattr(self, name)}", expected="a finite number")
        if self.learning_rate < 0:
            raise UserError("--learning_rate", f"is {self.learning_rate:g}", expected="0 or more")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise UserError(
                "--num_train_epochs", f"is {self.num_train_epochs:g}", expected="more than 0, or --max_steps"
            )
        if not 0 <= self.warmup_ratio < 1:
            raise UserError("--warmup_ratio", f"is {self.warmup_ratio:g}", expected="a fraction from 0 up to 1")
        for name in ("logging_steps", "save_steps", "eval_steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name}", f"is {value:g}", expected="more than 0")
        if not self.do_train and self.do_eval is False:
            raise UserError(
                "--do_train", "is not given, nor is --do_eval: there is nothing to do", mend="add --do_train"
            )
        if self.fp16 and self.bf16:
            raise UserError("--fp16", "and --bf16 are both given", expected="one of them", mend="remove one")
