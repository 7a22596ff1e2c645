"""Start anew or go on: what is in the output folder, and whether it belongs to this run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hanlin.config.adapter import LORA_FLAGS
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.config.training import TrainingConfig
from hanlin.errors import UserError
from hanlin.train.checkpoint import (
    Manifest,
    check_fingerprint,
    find_last,
    list_checkpoints,
    remove_staging,
    verify,
)
from hanlin.train.datasets import Datasets
from hanlin.train.start import Start

_LAST = ("last", "true", "True")


@dataclass(frozen=True, slots=True)
class Continuation:
    """A whole checkpoint to go on from, or none."""

    checkpoint: Path | None
    manifest: Manifest | None
    notices: tuple[str, ...]
    anew: bool
    """Checkpoints of an earlier run are to be removed before the first step."""

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse to continue with other data, order or weights. Raises UserError."""
        if self.checkpoint is not None and self.manifest is not None:
            check_fingerprint(self.checkpoint, self.manifest, fingerprint)

    def clear(self, output_dir: Path) -> None:
        """Remove unfinished checkpoints, and with ``anew`` those of the earlier run."""
        remove_staging(output_dir)
        if self.anew:
            for _, folder in list_checkpoints(output_dir):
                shutil.rmtree(folder)


def choose_continuation(config: TrainingConfig, output_dir: Path) -> Continuation:
    """What the settings and the folder say together. Raises UserError when they leave a doubt.

    An existing run is continued unless --overwrite_output_dir is given; a folder with other content needs that flag.
    """
    if not config.do_train:
        return Continuation(None, None, (), False)
    if config.resume_from_checkpoint in _LAST:
        return _resume_last(output_dir, required=True)
    if config.resume_from_checkpoint and config.resume_from_checkpoint not in ("false", "False"):
        return _resume_named(Path(config.resume_from_checkpoint))
    if config.overwrite_output_dir:
        return Continuation(None, None, (), True)
    if list_checkpoints(output_dir):
        return _resume_last(output_dir, required=False)
    leftovers = [item.name for item in output_dir.iterdir()] if output_dir.is_dir() else []
    if any(not name.startswith(".") and name != "token_cache" for name in leftovers):
        raise UserError(
            output_dir,
            f"holds files ({', '.join(sorted(leftovers)[:3])} ...) and no checkpoint to continue from",
            expected="an empty folder",
            mend="choose another --output_dir, or start anew with --overwrite_output_dir",
        )
    return Continuation(None, None, (), False)


def _resume_last(output_dir: Path, *, required: bool) -> Continuation:
    folder, skipped = find_last(output_dir)
    if folder is None:
        raise UserError(
            output_dir,
            "holds no whole checkpoint" + (f" ({'; '.join(skipped)})" if skipped else ""),
            expected="a checkpoint-N folder with a manifest",
            mend="remove --resume_from_checkpoint" if required else "start anew with --overwrite_output_dir",
        )
    manifest, _ = verify(folder)
    return Continuation(folder, manifest, (*skipped, f"Continuing from {folder}"), False)


def _resume_named(folder: Path) -> Continuation:
    if not folder.is_dir():
        raise UserError(
            "--resume_from_checkpoint",
            f"{folder} does not exist",
            expected="a checkpoint-N folder, or last",
        )
    manifest, fault = verify(folder)
    if manifest is None:
        others, _ = find_last(folder.parent)
        raise UserError(
            folder,
            f"is not a whole checkpoint: {fault}",
            mend=f"use {others}" if others else "start anew with --overwrite_output_dir",
        )
    return Continuation(folder, manifest, (f"Continuing from {folder}",), False)


def fingerprint_of(
    config: PtConfig | SftConfig, start: Start, data: Datasets, arguments: TrainingArguments
) -> dict[str, Any]:
    """What must be the same in a run that continues. The number of steps may grow, the path to them may not change."""
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * max(arguments.world_size, 1)
    adapter: dict[str, Any] = {"tuner": config.adapter.tuner}
    if start.adapter is not None:
        adapter["adapter"] = start.adapter.identity()
    elif config.adapter.tuner == "lora":
        for name in LORA_FLAGS:
            value = getattr(config.adapter, name)
            adapter[name] = list(value) if isinstance(value, tuple) else value
    return {
        "data": list(data.keys),
        "rows": len(data.train),
        "max_length": config.source.max_length,
        "tokenizer": start.tokenizer.identity,
        "base": start.base.identity if start.base else None,
        "seed": config.training.seed,
        "tokens of one step (rows)": batch,
        "learning_rate": config.training.learning_rate,
        "lr_scheduler_type": config.training.lr_scheduler_type,
        **adapter,
    }
