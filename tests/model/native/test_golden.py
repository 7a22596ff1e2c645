"""Every family against the numbers of its own code of 2023: logits, loss, gradients; and what must not agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from golden import VARIANTS, cases, loss_of, tensors_of, worst, write_case
from hanlin.model.load import load_model
from hanlin.model.native.family import native_modules
from hanlin.model.native.recognise import FAMILIES

TOLERANCE = 1e-5
"""Of the golden numbers, which have seven digits (spec section 9); the largest seen is 6e-6."""

RUNS = [(name, index) for name in VARIANTS for index in range(len(cases()[name]["runs"]))]


def is_long(name: str, run: Any) -> bool:
    return name == "qwen-v1" and not run["training"] and len(run["input_ids"][0]) > 16


def load(directory: Path, run: Any, name: str, **options: Any) -> Any:
    purpose = "all weights" if run["training"] else "answers" if is_long(name, run) else "any"
    return load_model(directory, dtype=torch.float32, purpose=purpose, **options)


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "index"), RUNS, ids=[f"{name}-{index}" for name, index in RUNS])
def test_logits_loss_and_gradients(tmp_path: Path, name: str, index: int, back_end: str) -> None:
    run = cases()[name]["runs"][index]
    model = load(write_case(tmp_path / "m", name), run, name, attn_implementation=back_end)
    assert worst(model, run) <= TOLERANCE
    if "loss" not in run:
        return
    loss = loss_of(model, run)
    assert float(loss) == pytest.approx(run["loss"], rel=2e-6)
    loss.backward()
    family, parameters = FAMILIES[VARIANTS[name]], dict(model.named_parameters())
    for source, norm in run["grad_norms"].items():
        module, _, leaf = source.rpartition(".")
        parts = [parameters[f"{native}.{leaf}"].grad for native in native_modules(family, module)]
        found = torch.cat([part.flatten() for part in parts]).norm()
        assert float(found) == pytest.approx(norm, rel=2e-5), source
