"""Number formats: what weights are loaded in, what a step computes in, and that trained weights stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from hanlin.errors import UserError, did_you_mean

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Precision:
    """How one run computes."""

    load_dtype: torch.dtype
    """Format in which the base weights are held; trained ones are float32 (:func:`trainable_to_float32`)."""
    autocast: Literal["no", "bf16", "fp16"]
    """Format of the matrix products of a step, in the words of accelerate; ``no`` is that of the weights."""
    notices: tuple[str, ...] = ()
    """Lines to print: each one tells of a request that was changed."""


def resolve_precision(
    *,
    device_type: str,
    torch_dtype: str | None,
    fp16: bool,
    bf16: bool,
    checkpoint_dtype: torch.dtype | None = None,
) -> Precision:
    """The formats for ``--dtype``, ``--fp16`` and ``--bf16`` on a device (``cpu``, ``cuda``, ``mps`` ...).

    ``checkpoint_dtype`` is the format of the stored weights, which ``auto`` follows. Without ``--dtype`` weights
    are float32 on a CPU and elsewhere the format of the step. Half-precision weights always come with autocast of the
    same format, since float32 trained weights could not be multiplied with them otherwise.

    On a CPU fp16 in any place becomes bf16, with one notice: fp16 matrix products run 40 to 300 times slower there,
    and transformers' Trainer would ignore ``fp16`` and train float32 without a word. Raises UserError when both
    ``--fp16`` and ``--bf16`` are given, or the dtype is unknown.
    """
    if fp16 and bf16:
        raise UserError("--fp16", "given together with --bf16", expected="one of the two", mend="leave one out")
    autocast: Literal["no", "bf16", "fp16"] = "fp16" if fp16 else "bf16" if bf16 else "no"
    load_dtype = _load_dtype(device_type, torch_dtype, autocast, checkpoint_dtype)
    notices = []
    if device_type == "cpu" and (autocast == "fp16" or load_dtype == torch.float16):
        asked = [*(["--fp16"] if fp16 else []), *([f"--dtype {torch_dtype}"] * (load_dtype == torch.float16))]
        notices.append(
            f"{' and '.join(asked)}: fp16 is 40 to 300 times slower than bf16 on a CPU; bf16 is used instead"
        )
        load_dtype = torch.bfloat16 if load_dtype == torch.float16 else load_dtype
        autocast = "bf16"
    elif autocast == "no" and load_dtype in HALF:
        autocast = "fp16" if load_dtype == torch.float16 else "bf16"
        notices.append(f"--dtype {torch_dtype}: steps compute in {autocast}, trained weights are kept in float32")
    return Precision(load_dtype, autocast, tuple(notices))


def _load_dtype(
    device_type: str, torch_dtype: str | None, autocast: str, checkpoint_dtype: torch.dtype | None
) -> torch.dtype:
    if torch_dtype is None:
        if device_type == "cpu" or autocast == "no":
            return torch.float32
        return torch.float16 if autocast == "fp16" else torch.bfloat16
    if torch_dtype == "auto":
        return checkpoint_dtype or torch.float32
    if torch_dtype not in DTYPES:
        names = ("auto", *DTYPES)
        raise UserError(
            "--dtype",
            f"unknown format {torch_dtype!r}",
            expected=f"one of {', '.join(names)}",
            mend=did_you_mean(torch_dtype, names),
        )
    return DTYPES[torch_dtype]


def trainable_to_float32(model: torch.nn.Module) -> int:
    """Turn every trainable half-precision parameter into float32, in place; the number of parameters changed.

    In fp16 the loss scaler refuses them ("Attempting to unscale FP16 gradients"), and in bf16 small updates are lost
    to rounding. Frozen weights stay as they are; a tensor that two modules share stays shared.
    """
    changed = 0
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in HALF:
            parameter.data = parameter.data.float()
            changed += 1
    return changed


def mixed_autocast(model: torch.nn.Module) -> AbstractContextManager[object]:
    """Autocast to the half format of a model that also has float32 weights, else nothing: for passes outside a trainer.

    Half-precision base weights cannot be multiplied with what float32 trained embeddings put out.
    """
    formats = {parameter.dtype for parameter in model.parameters()}
    half = formats.intersection(HALF)
    if not half or torch.float32 not in formats:
        return nullcontext()
    device_type = next(model.parameters()).device.type
    return torch.autocast(device_type, dtype=half.pop())
