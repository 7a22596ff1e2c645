"""Adapters into a base, shard by shard, proved before the folder appears under its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hanlin.errors import UserError
from hanlin.export import pth
from hanlin.export.merged import TensorChange, measure
from hanlin.export.plan import MergePlan, plan_merge
from hanlin.export.proof import LogitsProof, WeightsProof, prove_logits, prove_weights
from hanlin.export.pth_files import PthWeights, PthWriter
from hanlin.export.shards import (
    SafetensorsWriter,
    check_space,
    check_target,
    staged_folder,
    write_checksums,
    write_settings,
)
from hanlin.files import write_json
from hanlin.model.identity import tensor_hash, weights_identity, write_record
from hanlin.model.load import generation_values
from hanlin.model.stops import generation_settings
from hanlin.model.weights import WeightIndex, open_weights

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "qwen.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
)
"""What makes a tokenizer folder; code beside it is never copied."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    output_dir: Path
    changes: tuple[TensorChange, ...]
    identity: str
    """``weights_identity`` of the result, whatever its form."""
    weights_proof: WeightsProof | None
    logits_proof: LogitsProof | None
    notices: tuple[str, ...]

    def count(self, kind: str) -> int:
        """Number of tensors ``updated``, ``replaced``, ``added`` or ``kept``."""
        return sum(change.kind == kind for change in self.changes)

    def by_module(self) -> dict[str, tuple[int, float, int]]:
        """Kind of module to (changed tensors, norm of the change relative to the weight, new rows)."""
        table: dict[str, tuple[int, float, int]] = {}
        for module in dict.fromkeys(change.module for change in self.changes if change.kind != "kept"):
            found = [change for change in self.changes if change.module == module and change.kind != "kept"]
            weight = sum(change.weight for change in found)
            relative = (sum(change.change for change in found) / weight) ** 0.5 if weight else float("inf")
            table[module] = (len(found), relative, max(change.new_rows for change in found))
        return table


def merge_checkpoint(
    base: Path | str | None,
    adapters: Sequence[Path | str],
    output_dir: Path | str,
    *,
    output_type: Literal["safetensors", "huggingface", "pth"] = "safetensors",
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 4 * 10**9,
    num_shards: int | None = None,
    tokenizer: str | None = None,
    proof: Literal["logits", "weights", "none"] = "logits",
    overwrite: bool = False,
    allow_other_base: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Check, merge and prove: ``adapters`` in their order into ``base``, written to ``output_dir``.

    Raises UserError when anything does not fit, nothing changes, the disk is full or the proof fails; the output
    folder is then as it was before. Memory: one shard of ``max_shard_bytes`` and a few copies of the largest tensor;
    the proof by logits takes a whole model in float32.
    """
    check_target(Path(output_dir), [*map(Path, adapters), *([Path(base)] if base else [])], overwrite=overwrite)
    plan = plan_merge(base, adapters, tokenizer=tokenizer, dtype=dtype, allow_other_base=allow_other_base)
    return write_merge(
        plan,
        output_dir,
        output_type=output_type,
        max_shard_bytes=max_shard_bytes,
        num_shards=num_shards,
        proof=proof,
        overwrite=overwrite,
        progress=progress,
    )


def write_merge(
    plan: MergePlan,
    output_dir: Path | str,
    *,
    output_type: Literal["safetensors", "huggingface", "pth"] = "safetensors",
    max_shard_bytes: int = 4 * 10**9,
    num_shards: int | None = None,
    proof: Literal["logits", "weights", "none"] = "logits",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Write what ``plan`` describes, prove it, and only then give it its name. Raises UserError."""
    target = Path(output_dir).expanduser()
    inputs = [plan.base_folder, *(adapter.directory for adapter in plan.adapters)]
    check_target(target, inputs, overwrite=overwrite)
    is_pth = output_type == "pth"
    layout = pth.PthLayout.of(plan.config, num_shards, "--output_type") if is_pth else None
    check_space(target, plan.result.nbytes * (2 if is_pth else 1))
    report = progress or (lambda what, done, total: None)
    with staged_folder(target) as folder:
        writer = (
            PthWriter(folder, layout, plan.result, max_shard_bytes)
            if layout
            else SafetensorsWriter(folder, plan.result, max_shard_bytes)
        )
        hashes, changes = _write(plan, writer, report)
        _check_changed(plan, changes)
        written: WeightIndex = (
            PthWeights(folder, layout, plan.result) if layout else open_weights(folder, "--output_dir")
        )
        weights_proof = None if proof == "none" else prove_weights(plan.steps, written, hashes, report)
        _write_companions(plan, folder, params=pth.params(plan.config) if layout else None)
        logits_proof = None
        notices = list(plan.notices)
        if proof == "logits":
            logits_proof = prove_logits(plan, folder, written, report, notices)
        identity = weights_identity(written)
        write_checksums(folder, identity, hashes)
    return MergeReport(
        output_dir=target,
        changes=tuple(changes),
        identity=identity,
        weights_proof=weights_proof,
        logits_proof=logits_proof,
        notices=tuple(notices),
    )


def _write(
    plan: MergePlan, writer: SafetensorsWriter | PthWriter, report: Progress
) -> tuple[dict[str, str], list[TensorChange]]:
    """Compute and write every tensor, a group at a time; returns the hashes of the tensors and how far they moved."""
    hashes: dict[str, str] = {}
    changes: list[TensorChange] = []
    done, total = 0, plan.result.nbytes
    for group in writer.groups:
        tensors: dict[str, Tensor] = {}
        for name in group:
            merged, change = merge_tensor(plan, name)
            changes.append(change)
            hashes[name] = tensor_hash(merged)
            tensors[name] = merged
            done += merged.nbytes
            report("merge", done, total)
        del merged
        writer.write(tensors)
    writer.finish()
    return hashes, changes


def merge_tensor(plan: MergePlan, name: str) -> tuple[Tensor, TensorChange]:
    """One tensor of the result and how far it is from the base. Raises UserError when it does not fit its dtype."""
    owners = [step for step in plan.steps if name in step.tensors]
    before = after = owners[0].load_below(name)
    kind = "kept"
    for step in owners:
        after = step.apply(name, after)
        if step.touches(name):
            kind = "replaced" if name in step.full else "updated"
    if name not in plan.base.tensors:
        kind = "added"
    if kind != "kept" and after.is_floating_point() and not bool(torch.isfinite(after).all()):
        # Kept tensors are not looked at: what the base had is the base's affair.
        raise UserError(
            plan.result.adapter.directory,
            f"{name} is not finite after the merge in {str(after.dtype).removeprefix('torch.')}",
            mend="the adapter is damaged, or the dtype is too narrow: try --dtype bfloat16 or float32",
        )
    return after, measure(name, kind, before, after)


def _check_changed(plan: MergePlan, changes: Sequence[TensorChange]) -> None:
    """Refuse a result that is the base again: updates so small that rounding removed them all."""
    if any(change.change > 0 or change.new_rows or change.kind == "added" for change in changes):
        return
    dtype = str(next(iter(plan.result.tensors.values())).dtype).removeprefix("torch.")
    raise UserError(
        plan.adapters[-1].directory,
        f"changes nothing: every updated weight rounds to what it was in {dtype}",
        mend="use --dtype float32, or check that the adapter was trained",
    )


def _write_companions(plan: MergePlan, folder: Path, params: dict[str, Any] | None) -> None:
    """Everything beside the weights: configuration, tokenizer and record."""
    if params is None:
        write_settings(folder / "config.json", dict(plan.config))
        found = (generation_values(source, variant=plan.variant) for source in (plan.config_folder, plan.base_folder))
        shipped = next((values for values in found if values is not None), None)
        taught = [plan.tokenizer.special_id(token) for token in plan.record.stop]
        settings = generation_settings(shipped, plan.config, taught)
        if settings is not None:
            write_settings(folder / "generation_config.json", settings)
    else:
        write_json(folder / "params.json", params)
    if plan.tokenizer_path is None:
        plan.tokenizer.save(folder)
    else:
        for name in TOKENIZER_FILES:
            if (plan.tokenizer_path / name).is_file():
                shutil.copyfile(plan.tokenizer_path / name, folder / name)
    write_record(folder, plan.record)
