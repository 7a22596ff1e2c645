"""The proof that a merged model is base + adapters: every tensor read back from the disk, and the logits.

Weights. For each written tensor, the base and the updates are combined again, in float64 and by their definition, and
compared element by element. A float of eps (2^-23, 2^-10, 2^-7 for float32, float16, bfloat16) stores a value with an
error of at most eps/2 of it, and every adapter rounds once: allowed are (adapters + 1) * eps of the largest of base,
update and result, and for the products, which are summed over r terms in float32, r * 2^-23 * |B| @ |A| (the bound of
Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Tensors that no adapter touches must be the same
bits.

Logits. Base with adapters (PEFT) and the written model run in float32 on the same prompts. The only difference left is
the rounding of the stored weights, a relative noise of about 0.3 eps (root mean square) in each, independent from
weight to weight. Through L layers of 7 matrices it grows like sqrt(7 L) * 0.3 eps: 4.5 eps for 32 layers, measured as
a root mean square relative to that of the logits. Allowed are 16 eps, and at least 1e-4, since two float32 runs that
sum in another order already differ by some 1e-6 per layer. The difference is also compared with what the adapters do
to the logits at all: a merge that lost them would show a ratio of 1.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from hanlin.errors import UserError
from hanlin.export.merged import MergedWeights, head_name
from hanlin.export.plan import MergePlan, largest_dtype
from hanlin.export.pth_files import PthWeights
from hanlin.model.adapter import attach_adapter
from hanlin.model.identity import tensor_hash
from hanlin.model.load import load_model, model_from_config
from hanlin.model.weights import WeightIndex
from hanlin.vocab.tokenizer import TextTokenizer

PROMPTS = (
    "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。",
    "The capital of France is",
    "def add(a, b):\n    return a + b\n",
)
"""Text of both languages and of code; fixed, so that two proofs can be compared."""

PROMPT_LENGTH = 48
"""Tokens of each prompt that is made of ids."""

FLOAT32_FLOOR = 1e-4
"""Smallest tolerance: what summation order does to float32 logits, with room to spare."""


@dataclass(frozen=True, slots=True)
class WeightsProof:
    """Every tensor was read back. Errors are in units of the largest allowed one, so below 1 is within bounds."""

    num_tensors: int
    num_equal: int
    """Tensors that must be, and are, the same bits as in the base or in the adapter."""
    worst: float
    """Largest error of an updated weight relative to its bound."""


@dataclass(frozen=True, slots=True)
class LogitsProof:
    """How far the logits of the written model are from those of base + adapters; all figures relative to their size."""

    difference: float
    """Root mean square of the difference over that of the logits."""
    tolerance: float
    largest: float
    """Largest difference of one logit over the largest logit."""
    effect: float
    """What the adapters change: root mean square, on old tokens."""
    agreement: float
    """Share of positions with the same most likely token."""
    num_positions: int


def prove_weights(
    steps: Sequence[MergedWeights],
    written: WeightIndex,
    hashes: Mapping[str, str],
    progress: Callable[[str, int, int], None],
) -> WeightsProof:
    """Compare every tensor on the disk with base + updates, and with the hash it had in memory. Raises UserError."""
    result = steps[-1]
    if set(written.tensors) != set(result.tensors):
        missing = sorted(set(result.tensors) ^ set(written.tensors))
        raise UserError("proof", f"the written model differs in its tensors, such as {missing[0]}", mend=_MEND)
    worst, equal, done, total = 0.0, 0, 0, result.nbytes
    for name in written.tensors:
        tensor = written.load(name)
        if tensor_hash(tensor) != hashes[name]:
            raise UserError("proof", f"{name} is not on the disk as it was written", mend=_MEND)
        error = _error_of(name, tensor, steps)
        if error is None:
            equal += 1
        elif not error <= 1.0:
            raise UserError("proof", f"{name} is not base + update: {error:.3g} times the allowed error", mend=_MEND)
        else:
            worst = max(worst, error)
        done += tensor.nbytes
        progress("proof of weights", done, total)
    return WeightsProof(num_tensors=len(written.tensors), num_equal=equal, worst=worst)


_MEND = "nothing was kept; check the disk and the memory of this machine, and report it if it happens again"


def _error_of(name: str, tensor: Tensor, steps: Sequence[MergedWeights]) -> float | None:
    """Largest error over its bound; None for a tensor that has to be, and is, a copy. Raises UserError otherwise."""
    owners = [step for step in steps if name in step.tensors]
    expected = owners[0].load_below(name)
    updates: list[tuple[Tensor, Tensor, float]] = []
    for step in owners:
        if name in step.full:
            expected = step.full_tensor(name).to(step.tensors[name].dtype)
            updates = []
        elif name in step.pairs:
            updates.append(_factors(step, name))
    if not updates:
        if not torch.equal(tensor, expected.to(tensor.dtype)):
            raise UserError("proof", f"{name} is not the copy that it should be", mend=_MEND)
        return None
    # Intermediate results keep the base's dtype, so the coarser of the two counts.
    finfo = [torch.finfo(dtype) for dtype in (expected.dtype, tensor.dtype)]
    eps, tiny = max(info.eps for info in finfo), max(info.tiny for info in finfo)
    worst = 0.0
    # In slices of rows of about 8 MB: the float64 copies of a whole matrix would be larger than a shard.
    height = max(1, 2**20 * len(tensor) // max(1, tensor.numel()))
    for start in range(0, len(tensor), height):
        rows = slice(start, start + height)
        exact = expected[rows].double()
        largest, sums = exact.abs(), torch.zeros_like(exact)
        for left, right, scale in updates:
            update = (left[rows] @ right) * scale
            exact = exact + update
            largest = torch.maximum(torch.maximum(largest, update.abs()), exact.abs())
            sums += (left[rows].abs() @ right.abs()) * (abs(scale) * len(right))
        bound = (len(updates) + 1) * eps * largest + torch.finfo(torch.float32).eps * sums + tiny
        worst = max(worst, float(((tensor[rows].double() - exact).abs() / bound).nan_to_num(nan=torch.inf).max()))
    return worst


def _factors(step: MergedWeights, name: str) -> tuple[Tensor, Tensor, float]:
    """Left [rows, r] and right [r, columns] factor of the update of a tensor, in float64, and their scale."""
    module, name_a, name_b = step.pairs[name]
    a, b = (step.adapter.index.load(stored).double() for stored in (name_a, name_b))
    scale = step.adapter.scaling(module)
    return (a.T, b.T, scale) if step.adapter.fan_in_fan_out else (b, a, scale)


def prove_logits(
    plan: MergePlan,
    folder: Path,
    written: WeightIndex,
    progress: Callable[[str, int, int], None],
    notices: list[str],
) -> LogitsProof | None:
    """Run both models, one after the other, in float32. Raises UserError when the logits differ.

    None, with a notice, when the machine has not enough free memory for one model in float32.
    """
    needed = 4 * sum(torch.Size(shape).numel() for shape in plan.result.shapes().values()) * 5 // 4
    available = available_memory()
    if available is not None and available < needed:
        notices.append(
            f"warning: the proof by logits needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "free; the weights were proved, the logits were not"
        )
        return None
    prompts = make_prompts(plan.tokenizer)
    progress("proof of logits", 0, 3)
    reference, effect = _reference_logits(plan, prompts)
    progress("proof of logits", 2, 3)
    logits = logits_of(_written_model(plan, folder, written), prompts)
    progress("proof of logits", 3, 3)
    proof = compare_logits(reference, logits, dtype=largest_dtype(plan.result), effect=effect)
    if not proof.difference <= proof.tolerance:
        raise UserError(
            "proof",
            f"logits of the merged model differ from base + adapter by {proof.difference:.2g} of their size",
            expected=f"at most {proof.tolerance:.2g}",
            mend=_MEND,
        )
    if proof.difference > effect / 2:
        stored = str(largest_dtype(plan.result)).removeprefix("torch.")
        notices.append(
            f"warning: rounding to {stored} moves the logits by {proof.difference:.2g} of their size and the adapter "
            f"by {effect:.2g}: use --dtype float32 to keep its effect"
        )
    return proof


def compare_logits(
    reference: Sequence[Tensor], logits: Sequence[Tensor], *, dtype: torch.dtype, effect: float
) -> LogitsProof:
    """Two sets of logits [T, V] float32, prompt by prompt, for weights stored in ``dtype``."""
    x, y = (torch.cat([row.flatten() for row in rows]) for rows in (reference, logits))
    agreement = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(reference, logits, strict=True)])
    return LogitsProof(
        difference=_relative(y - x, x),
        tolerance=max(FLOAT32_FLOOR, 16 * torch.finfo(dtype).eps),
        largest=float((y - x).abs().max() / x.abs().max()),
        effect=effect,
        agreement=float(agreement.float().mean()),
        num_positions=agreement.numel(),
    )


def make_prompts(tokenizer: TextTokenizer) -> list[list[int]]:
    """Ids to run: text through the tokenizer, ids spread over the vocabulary, and the newest ids."""
    size = len(tokenizer)
    start = list(tokenizer.prefix_ids)
    texts = [(start + tokenizer.encode(text))[:PROMPT_LENGTH] for text in PROMPTS]
    spread = [(index * 7919 + 13) % size for index in range(PROMPT_LENGTH)]
    newest = [size - 1 - index % size for index in range(PROMPT_LENGTH)]
    return [ids for ids in (*texts, spread, newest) if ids]


def _reference_logits(plan: MergePlan, prompts: Sequence[Sequence[int]]) -> tuple[list[Tensor], float]:
    """Logits of base + adapters, and how much the adapters change those of the base on prompts that the base knows."""
    model: Any = load_model(plan.base_folder, dtype=torch.float32, variant=plan.variant)
    base_rows = model.get_input_embeddings().weight.shape[0]
    known = [[token for token in prompt if token < base_rows] or [0] for prompt in prompts]
    before = logits_of(model, known)
    for position, step in enumerate(plan.steps):
        if model.config.tie_word_embeddings and not step.tied:
            _untie(model)
        model = attach_adapter(model, step.adapter, trainable=False)
        if position < len(plan.steps) - 1:
            model = model.merge_and_unload()
    after = logits_of(model, known)
    change = torch.cat([(a[:, : b.shape[1]] - b).flatten() for a, b in zip(after, before, strict=True)])
    effect = _relative(change, torch.cat([row.flatten() for row in before]))
    return logits_of(model, prompts), effect


def _untie(model: Any) -> None:
    """Give the head its own copy of the embedding, as the merge does for an adapter that brings a head."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.config.tie_word_embeddings = False


def _written_model(plan: MergePlan, folder: Path, written: WeightIndex) -> PreTrainedModel:
    """The merged model from the disk: by transformers, or for pth from its parts under our names."""
    gc.collect()  # the reference model has cycles; without this two models would be in memory
    if not isinstance(written, PthWeights):
        return load_model(folder, dtype=torch.float32)
    model = model_from_config(plan.config, dtype=torch.float32)
    state = {name: written.load(name).float() for name in written.tensors}
    model.load_state_dict(state, strict=head_name(written.tensors) is not None)
    model.tie_weights()
    return model


@torch.no_grad()
def logits_of(model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [T, V] float32 of each prompt, run alone: no padding, so nothing but the weights can differ."""
    model.eval()
    return [model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float() for ids in prompts]


def _relative(difference: Tensor, reference: Tensor) -> float:
    return float(difference.double().square().sum().sqrt() / reference.double().square().sum().sqrt())


def available_memory() -> int | None:
    """Bytes of memory that can be taken without swapping, where the system says so (Linux), else None."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
