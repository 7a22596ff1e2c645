"""Formats: every combination of flags on a CPU and a GPU, and float32 for what is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hanlin.errors import UserError
from hanlin.model.precision import mixed_autocast, resolve_precision, trainable_to_float32

F32, F16, B16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "torch_dtype", "flag", "load", "autocast", "notices"),
    [
        ("cpu", None, "", F32, "no", 0),
        ("cpu", "float32", "", F32, "no", 0),
        ("cpu", None, "bf16", F32, "bf16", 0),
        ("cpu", "bfloat16", "bf16", B16, "bf16", 0),
        ("cpu", None, "fp16", F32, "bf16", 1),
        ("cpu", "float16", "fp16", B16, "bf16", 1),  # the published command line: still one line
        ("cpu", "float16", "", B16, "bf16", 1),
        ("cpu", "float16", "bf16", B16, "bf16", 1),
        ("cpu", "float32", "fp16", F32, "bf16", 1),
        ("cpu", "bfloat16", "", B16, "bf16", 1),
        ("cuda", None, "", F32, "no", 0),
        ("cuda", None, "fp16", F16, "fp16", 0),
        ("cuda", None, "bf16", B16, "bf16", 0),
        ("cuda", "float16", "fp16", F16, "fp16", 0),
        ("cuda", "float32", "fp16", F32, "fp16", 0),
        ("cuda", "float16", "bf16", F16, "bf16", 0),
        ("cuda", "float16", "", F16, "fp16", 1),
    ],
)
def test_formats(
    device: str, torch_dtype: str | None, flag: str, load: torch.dtype, autocast: str, notices: int
) -> None:
    precision = resolve_precision(device_type=device, torch_dtype=torch_dtype, fp16=flag == "fp16", bf16=flag == "bf16")
    assert (precision.load_dtype, precision.autocast) == (load, autocast)
    assert len(precision.notices) == notices
    assert not any("--torch_dtype" in notice for notice in precision.notices), "the flag is called --dtype"
    assert all("\n" not in notice for notice in precision.notices)


def test_fp16_never_reaches_a_cpu() -> None:
    for torch_dtype in (None, "auto", "float16", "float32", "bfloat16"):
        for stored in (F32, F16, B16):
            precision = resolve_precision(
                device_type="cpu", torch_dtype=torch_dtype, fp16=True, bf16=False, checkpoint_dtype=stored
            )
            assert precision.autocast == "bf16"
            assert precision.load_dtype is not F16
            assert len(precision.notices) == 1
            assert "--fp16" in precision.notices[0]
            assert "torch_dtype" not in precision.notices[0]


def test_auto_follows_the_checkpoint() -> None:
    def auto(device: str, stored: torch.dtype | None) -> torch.dtype:
        return resolve_precision(
            device_type=device, torch_dtype="auto", fp16=False, bf16=False, checkpoint_dtype=stored
        ).load_dtype

    assert auto("cuda", F16) is F16
    assert auto("cpu", B16) is B16
    assert auto("cpu", F16) is B16
    assert auto("cpu", None) is F32


def test_impossible_requests_name_the_flag() -> None:
    with pytest.raises(UserError, match=r"--fp16: given together with --bf16; expected one of the two"):
        resolve_precision(device_type="cpu", torch_dtype=None, fp16=True, bf16=True)
    with pytest.raises(UserError, match=r"--dtype: unknown format 'bfloat61'; .*did you mean bfloat16"):
        resolve_precision(device_type="cpu", torch_dtype="bfloat61", fp16=False, bf16=False)


@pytest.mark.parametrize("dtype", [F16, B16])
def test_trained_weights_become_float32(dtype: torch.dtype) -> None:
    """Problem 7 of the older scripts: "Attempting to unscale FP16 gradients"."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)).to(dtype)
    model[2].weight = model[0].weight  # tied
    model[1].requires_grad_(False)
    assert trainable_to_float32(model) == 1
    assert model[0].weight.dtype is F32
    assert model[2].weight is model[0].weight
    assert model[1].weight.dtype is dtype
    assert trainable_to_float32(model) == 0
    # The mixture computes only under autocast, which is found from the weights.
    with pytest.raises(RuntimeError, match="dtype"):
        model(torch.tensor([1]))
    with mixed_autocast(model):
        model(torch.tensor([1])).sum().backward()
    assert model[0].weight.grad.dtype is F32


def test_small_steps_are_not_lost() -> None:
    """What float32 is for: a step of 1e-4 on a weight of 1 vanishes in bf16, which has 8 bits."""
    weight = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(weight.weight)
    assert (weight.weight - 1e-4).item() == 1
    trainable_to_float32(weight)
    assert (weight.weight - 1e-4).item() < 1
