"""Start anew or go on: what is in the output folder, and whether it belongs to this run."""

from __future__ import annotations

import json
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
from hanlin.model.precision import Precision
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

_LEFT_BY_A_RUN = (
    "pt_lora_model", "sft_lora_model", "model*.safetensors", "model.safetensors.index.json", "config.json",
    "generation_config.json", "hanlin.json", "*_results.json", "trainer_state.json", "metrics.jsonl", "ledger.jsonl",
    "loss.png", "learning_rate.png", "README.md", "run.yaml",
)  # fmt: skip
"""What an earlier run wrote into its output folder and a new one replaces."""

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

    @property
    def date(self) -> str | None:
        """Day on which the run that is continued began."""
        date = self.manifest.fingerprint.get("date") if self.manifest else None
        return str(date) if date else None

    def clear(self, output_dir: Path) -> None:
        """Remove unfinished checkpoints, and with ``anew`` all that the earlier run left: weights of the one and
        settings of the other must never lie side by side."""
        remove_staging(output_dir)
        if not self.anew:
            return
        for _, folder in list_checkpoints(output_dir):
            shutil.rmtree(folder)
        for pattern in _LEFT_BY_A_RUN:
            for item in output_dir.glob(pattern):
                shutil.rmtree(item) if item.is_dir() else item.unlink()


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


FREE = frozenset(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs auto_find_batch_size
    batch_eval_metrics dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend
    ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug
    deepspeed disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
    eval_do_concat_batches eval_on_start eval_steps eval_strategy eval_use_gather_object fsdp fsdp_config
    gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs greater_is_better
    hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip
    include_for_metrics include_num_input_tokens_seen label_names length_column_name load_best_model_at_end
    local_rank log_level log_level_replica log_on_each_node logging_first_step logging_steps logging_strategy
    max_steps metric_for_best_model num_train_epochs output_dir parallelism_config per_device_eval_batch_size
    per_device_train_batch_size prediction_loss_only project push_to_hub report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model
    save_steps save_strategy save_total_limit skip_memory_metrics torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    use_cpu
    """.split()
)
"""Fields of the trainer that a run may change when it continues: they do not touch which numbers are computed."""


def fingerprint_of(
    config: PtConfig | SftConfig, start: Start, data: Datasets, arguments: TrainingArguments, precision: Precision
) -> dict[str, Any]:
    """What must be the same in a run that continues. The number of steps may grow, the path to them may not change."""
    adapter: dict[str, Any] = {"tuner": config.adapter.tuner}
    if start.adapter is not None:
        adapter["adapter"] = start.adapter.identity()
    elif config.adapter.tuner == "lora":
        for name in LORA_FLAGS:
            value = getattr(config.adapter, name)
            adapter[name] = list(value) if isinstance(value, tuple) else value
    fields = {name: value for name, value in arguments.to_dict().items() if name not in FREE}
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * max(arguments.world_size, 1)
    return {
        "data": list(data.keys),
        "rows": len(data.train),
        "max_length": config.source.max_length,
        "validation_split_percentage": config.source.validation_split_percentage,
        "date": start.date,
        "tokenizer": start.tokenizer.identity,
        "base": start.base.identity if start.base else None,
        "dtype": str(precision.load_dtype),
        "rows of one step": batch,
        **adapter,
        **json.loads(json.dumps(fields, default=str)),
    }
