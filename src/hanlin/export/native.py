"""A checkpoint of 2023 as a folder in today's format, written shard by shard and proved before it gets its name.

The proof puts together again what was cut: the parts on the disk, joined, must be the stored tensors bit for bit (a
normalised head, the only thing that is computed: its rows divided by their length, within rounding). Then plain
transformers loads the folder and must give the logits of the checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from hanlin import __version__
from hanlin.errors import UserError
from hanlin.export.plan import largest_dtype
from hanlin.export.proof import LogitsProof, available_memory, compare_logits, logits_of, make_prompts
from hanlin.export.shards import (
    SafetensorsWriter,
    check_space,
    check_target,
    staged_folder,
    write_checksums,
    write_settings,
)
from hanlin.model.hub import Access, Origin, default_access, local_tokenizer
from hanlin.model.identity import Record, read_record, tensor_hash, weights_identity, write_record
from hanlin.model.load import (
    choose_variant,
    config_values,
    empty_model,
    find_checkpoint,
    generation_values,
    load_config,
    load_model,
    open_base,
)
from hanlin.model.native.convert import HEAD, NativeWeights
from hanlin.model.native.family import Cut, cuts_of, native_modules
from hanlin.model.native.own_types import OWN_TYPES
from hanlin.model.weights import WeightIndex, open_weights
from hanlin.vocab.tokenizer import TextTokenizer

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""

_MEND = "nothing was kept; check the disk and the memory of this machine, and report it if it happens again"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePlan:
    """A conversion that has passed every check."""

    name: str
    """The checkpoint as it was given."""
    folder: Path
    origin: Origin | None
    weights: NativeWeights
    config: PretrainedConfig
    tokenizer: TextTokenizer
    template: str | None
    variant: str | None
    notices: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether transformers itself has a class for the result."""
        return self.config.model_type not in OWN_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeReport:
    """What an export did."""

    output_dir: Path
    num_tensors: int
    nbytes: int
    identity: str
    """``weights_identity`` of what was written."""
    is_proved: bool
    logits_proof: LogitsProof | None
    notices: tuple[str, ...]


def plan_native(
    model: Path | str,
    *,
    tokenizer: str | None = None,
    template: str | None = None,
    access: Access | None = None,
    variant: str | None = None,
    family: str | None = None,
) -> NativePlan:
    """Open a checkpoint of 2023 by its headers and check that it is one, and whole.

    ``template`` is the one that the model is known to be tuned with; a record beside the weights goes before it.
    ``variant`` and ``family`` (that of the catalog's entry) tell a checkpoint whose config.json does not.
    Raises UserError, also for a folder that has today's format already.
    """
    access = access or default_access()
    folder, origin = find_checkpoint(model, "--model", access)
    variant = choose_variant(folder, variant, family=family)
    config = load_config(folder, "--model", variant=variant)
    weights = open_base(folder, "--model", variant=variant)
    if not isinstance(weights, NativeWeights):
        raise UserError(
            "--model",
            f"{folder} has today's format already (model_type {config.model_type!r}), there is nothing to convert",
            expected="a checkpoint of 2023 that brought its own code",
            mend="use it as it is: every verb reads it, and so does transformers",
        )
    _check_whole(folder, weights, config)
    given = None if tokenizer is None else local_tokenizer(tokenizer, "--tokenizer", access)
    place = "--model" if given is None else "--tokenizer"
    found = TextTokenizer.load(given or str(folder), place=place)
    if len(found) > config.vocab_size:
        raise UserError(
            place,
            f"the tokenizer has {len(found):,} tokens, and the model {config.vocab_size:,} rows",
            expected="the tokenizer that the checkpoint was trained with",
        )
    record = read_record(folder)
    return NativePlan(
        name=str(model),
        folder=folder,
        origin=origin,
        weights=weights,
        config=config,
        tokenizer=found,
        template=record.template if record and record.template else template,
        variant=variant,
        notices=weights.notices,
    )


def write_native(
    plan: NativePlan,
    output_dir: Path | str,
    *,
    max_shard_bytes: int = 4 * 10**9,
    proof: Literal["logits", "weights", "none"] = "logits",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NativeReport:
    """Write the checkpoint of ``plan`` in today's format, prove it, and only then give it its name.

    Memory: one shard of ``max_shard_bytes`` and a few copies of the largest tensor; the proof by logits takes a whole
    model in float32. Raises UserError when the disk is full or the proof fails; the output folder is then as it was.
    """
    target = Path(output_dir).expanduser()
    check_target(target, [plan.folder], overwrite=overwrite)
    weights = plan.weights.finished()
    check_space(target, weights.nbytes)
    report = progress or (lambda what, done, total: None)
    notices = list(plan.notices)
    with staged_folder(target) as folder:
        hashes = _write_weights(folder, weights, max_shard_bytes, report)
        written = open_weights(folder, "--output_dir")
        _write_companions(plan, folder)
        logits_proof = None
        if proof != "none":
            prove_parts(plan.weights, written, report)
        if proof == "logits":
            logits_proof = prove_native_logits(plan, folder, report, notices)
        identity = weights_identity(written)
        write_checksums(folder, identity, hashes)
    return NativeReport(
        output_dir=target,
        num_tensors=len(weights.tensors),
        nbytes=weights.nbytes,
        identity=identity,
        is_proved=proof != "none",
        logits_proof=logits_proof,
        notices=tuple(notices),
    )


def _check_whole(folder: Path, weights: WeightIndex, config: PretrainedConfig) -> None:
    """Every weight of the native class is there in its shape, and none beside them. Raises UserError."""
    wanted = {name: tuple(tensor.shape) for name, tensor in empty_model(config).state_dict().items()}
    found = weights.shapes()
    for problem, names in (
        ("lacks", sorted(wanted.keys() - found.keys())),
        ("holds unknown", sorted(found.keys() - wanted.keys())),
        ("holds misshapen", sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])),
    ):
        if names:
            raise UserError(
                "--model",
                f"{folder} {problem} weights of a {config.model_type} model, {len(names)} such as {names[0]}",
                mend="check that config.json and the weights belong together",
            )


def _write_weights(folder: Path, weights: WeightIndex, max_shard_bytes: int, report: Progress) -> dict[str, str]:
    """Convert and write every tensor, a shard at a time; returns their hashes."""
    writer = SafetensorsWriter(folder, weights, max_shard_bytes)
    hashes: dict[str, str] = {}
    done = 0
    for group in writer.groups:
        tensors: dict[str, Tensor] = {}
        for name in group:
            tensors[name] = weights.load(name)
            hashes[name] = tensor_hash(tensors[name])
            done += tensors[name].nbytes
            report("export", done, weights.nbytes)
        writer.write(tensors)
    writer.finish()
    return hashes


def _write_companions(plan: NativePlan, folder: Path) -> None:
    """Everything beside the weights: configuration, tokenizer and record."""
    config = config_values(plan.folder, variant=plan.variant)
    config.pop("_name_or_path", None)
    config.pop("torch_dtype", None)
    config["dtype"] = str(largest_dtype(plan.weights)).removeprefix("torch.")
    write_settings(folder / "config.json", config)
    write_settings(folder / "generation_config.json", generation_values(plan.folder, variant=plan.variant))
    plan.tokenizer.save(folder)
    source = read_record(plan.folder)
    write_record(
        folder,
        Record(
            kind="model",
            stage=source.stage if source else "base",
            base_model=plan.name,
            base_identity=weights_identity(plan.weights),
            tokenizer_identity=plan.tokenizer.identity,
            template=plan.template,
            system=source.system if source else None,
            chain=source.chain if source else (),
            base_vocab_rows=plan.config.vocab_size,
            hanlin_version=__version__,
            base_hub=plan.origin.hub if plan.origin else None,
            base_revision=plan.origin.revision if plan.origin else None,
            base_variant=plan.variant,
            stop=source.stop if source else (),
        ),
    )


def prove_parts(source: NativeWeights, written: WeightIndex, report: Progress) -> None:
    """Join the written parts of every stored tensor and compare. Raises UserError where they are not the same bits."""
    family = source.family
    if set(written.tensors) != set(source.tensors):
        wrong = sorted(set(source.tensors) ^ set(written.tensors))
        raise UserError("proof", f"{len(wrong)} tensors are missing or too many, such as {wrong[0]}", mend=_MEND)
    done = 0
    for info in source.stored.tensors.values():
        if info.name.endswith(family.dropped):
            continue
        module, dot, leaf = info.name.rpartition(".")
        names = [f"{target}{dot}{leaf}" for target in native_modules(family, module)]
        parts = [written.load(name) for name in names]
        stored = source.stored.load(info.name)
        joined = _joined(parts, cuts_of(family, source.config)) if len(parts) > 1 else parts[0]
        if names == [HEAD] and family.normalised_head:
            same = joined.dtype == stored.dtype and _is_divided(joined, stored)
        else:
            same = joined.dtype == stored.dtype and tensor_hash(joined) == tensor_hash(stored)
        if not same:
            raise UserError("proof", f"{', '.join(names)} on the disk are not {info.name}", mend=_MEND)
        done += info.nbytes
        report("proof of weights", done, source.nbytes)


def _joined(parts: Sequence[Tensor], cuts: Sequence[Cut]) -> Tensor:
    """The parts at the rows of the stored tensor that they were cut from."""
    if all(cut.turns == 1 for cut in cuts):
        return torch.cat(list(parts))
    whole = parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]))
    for part, cut in zip(parts, cuts, strict=True):
        whole[cut.stored_rows(range(len(part)))] = part
    return whole


def _is_divided(written: Tensor, stored: Tensor) -> bool:
    """Whether the rows of ``written`` are those of ``stored`` [V, D] divided by their length, up to rounding.

    Rounding to the dtype moves a number by eps/2 of it at most; the length is summed in float32.
    """
    finfo = torch.finfo(stored.dtype)
    for start in range(0, len(stored), 4096):
        rows = slice(start, start + 4096)
        exact = stored[rows].double()
        exact /= exact.norm(dim=1, keepdim=True).clamp_min(1e-12)
        bound = (finfo.eps + 1e-6) * exact.abs() + finfo.tiny * finfo.eps
        if not bool(((written[rows].double() - exact).abs() <= bound).all()):
            return False
    return True


def prove_native_logits(plan: NativePlan, folder: Path, report: Progress, notices: list[str]) -> LogitsProof | None:
    """Run the checkpoint and the written folder, one after the other, in float32. Raises UserError when they differ.

    None, with a notice, when the machine has not enough free memory for one model in float32.
    """
    needed = 4 * sum(torch.Size(shape).numel() for shape in plan.weights.shapes().values()) * 5 // 4
    available = available_memory()
    if available is not None and available < needed:
        notices.append(
            f"warning: the proof by logits needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "free; the weights were proved, the logits were not"
        )
        return None
    prompts = make_prompts(plan.tokenizer)
    report("proof of logits", 0, 2)
    reference = logits_of(load_model(plan.folder, dtype=torch.float32, variant=plan.variant), prompts)
    report("proof of logits", 1, 2)
    gc.collect()  # the first model has cycles; without this two models would be in memory
    logits = logits_of(_plain_model(plan, folder), prompts)
    report("proof of logits", 2, 2)
    found = compare_logits(reference, logits, dtype=torch.float32, effect=0.0)
    if not found.difference <= found.tolerance:
        raise UserError(
            "proof",
            f"logits of the written model differ from the checkpoint's by {found.difference:.2g} of their size",
            expected=f"at most {found.tolerance:.2g}",
            mend=_MEND,
        )
    return found


def _plain_model(plan: NativePlan, folder: Path) -> PreTrainedModel:
    """The written model by plain transformers where it has the class, with every weight from the files."""
    if not plan.is_plain:
        return load_model(folder, dtype=torch.float32)
    kind: Any = AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True)
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UserError("proof", f"transformers does not take {wrong[0]} as it was written", mend=_MEND)
    found: PreTrainedModel = model
    return found
