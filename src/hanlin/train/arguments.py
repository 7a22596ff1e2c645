"""From our settings to transformers' TrainingArguments: one place that knows both names."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hanlin.config.environment import read_processes
from hanlin.config.training import TrainingConfig
from hanlin.errors import UserError, did_you_mean

_FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}


def training_arguments(
    config: TrainingConfig, *, device_type: str, autocast: str, has_validation: bool, passed: dict[str, Any]
) -> tuple[TrainingArguments, list[str]]:
    """The trainer's arguments and lines that the user should see.

    ``autocast`` is "no", "bf16" or "fp16"; ``passed`` are fields of TrainingArguments that the user named and that
    have no setting of our own. Raises UserError where the trainer refuses a value.
    """
    notices: list[str] = []
    do_eval = has_validation if config.do_eval is None else config.do_eval
    if do_eval and not has_validation:
        raise UserError(
            "--do_eval",
            "is given, but there are no validation rows",
            mend="add --validation_file FILE or --validation_split_percentage 0.05",
        )
    if config.save_strategy == "best" and not do_eval:
        raise UserError(
            "--save_strategy",
            "is best, and nothing is evaluated",
            expected="validation rows",
            mend="add --validation_split_percentage 0.05, or choose steps",
        )
    fields: dict[str, Any] = {
        "output_dir": config.output_dir,
        "seed": config.seed,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "per_device_eval_batch_size": config.per_device_eval_batch_size or config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        # Since transformers 5 a value below 1 is the share of all steps.
        "warmup_steps": config.warmup_steps or config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": autocast == "bf16",
        "fp16": autocast == "fp16",
        "logging_strategy": "steps",
        "logging_steps": _whole(config.logging_steps),
        "logging_first_step": config.logging_first_step,
        # A NaN must be seen, not replaced by the mean of the others.
        "logging_nan_inf_filter": False,
        "eval_strategy": _eval_strategy(config, do_eval),
        "eval_steps": _whole(config.eval_steps) if config.eval_steps else None,
        "save_strategy": config.save_strategy,
        "save_steps": _whole(config.save_steps),
        # Rotation is done by our own checkpoint writer, which knows the renamed folders.
        "save_total_limit": None,
        "metric_for_best_model": "loss" if do_eval else None,
        "greater_is_better": False if do_eval else None,
        "report_to": [name for name in config.report_to if name != "none"] or "none",
        "deepspeed": _deepspeed(config, notices),
        "do_train": config.do_train,
        "do_eval": do_eval,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "average_tokens_across_devices": True,
        "dataloader_pin_memory": False,
        # Every trained weight takes part in every step; looking for others costs time and a warning.
        "ddp_find_unused_parameters": False,
        # Without it transformers refuses bf16 on a machine that has no GPU.
        "use_cpu": device_type == "cpu",
    }
    if config.gradient_checkpointing:
        # transformers renamed the pair in 5.2x; both names stand for the same until 6.
        name = "activation_checkpointing" if "activation_checkpointing" in _FIELDS else "gradient_checkpointing"
        # The re-entrant form needs inputs with gradients and hides that use_cache was on.
        fields |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    fields.update(passed)
    try:
        return TrainingArguments(**fields), notices
    except (ValueError, TypeError, ImportError) as error:
        _refuse_choice(str(error), fields)
        raise UserError("training settings", " ".join(str(error).split())) from error


def _refuse_choice(message: str, fields: dict[str, Any]) -> None:
    """Raises UserError at the flag when ``message`` is transformers' refusal of a value that is none of its names."""
    found = re.match(r"(\S+) is not a valid \w+, please select one of \[(.*)\]", " ".join(message.split()))
    flag = next((name for name, value in fields.items() if found and value == found[1]), None)
    if found and flag:
        names = [name.strip(" '\"") for name in found[2].split(",")]
        near = did_you_mean(found[1], names)
        raise UserError(f"--{flag}", f"is {found[1]!r}", expected=f"one of {', '.join(names)}", mend=near)


def _whole(steps: float) -> float:
    """Steps as the trainer wants them: a whole number, or a share of all steps below 1."""
    return steps if steps < 1 else int(steps)


def _eval_strategy(config: TrainingConfig, do_eval: bool) -> str:
    if not do_eval:
        return "no"
    return config.eval_strategy or ("steps" if config.eval_steps else "epoch")


def _deepspeed(config: TrainingConfig, notices: list[str]) -> str | None:
    """The DeepSpeed file, unless the package is absent and one process has nothing to partition."""
    if config.deepspeed is not None and not Path(config.deepspeed).is_file():
        raise UserError("--deepspeed", f"{config.deepspeed} does not exist", expected="a DeepSpeed JSON file")
    if config.deepspeed is None or importlib.util.find_spec("deepspeed") is not None:
        return config.deepspeed
    if read_processes().world_size > 1:
        raise UserError(
            "--deepspeed",
            "is given, but the package deepspeed is not installed",
            mend="pip install 'hanlin[deepspeed]', or remove the flag: the processes then train with DDP",
        )
    notices.append(
        "--deepspeed: not used, because the package deepspeed is not installed and ZeRO has nothing to partition in "
        "a run of one process; the results are the same"
    )
    return None
