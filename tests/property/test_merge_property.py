"""The merge of any shapes, ranks and settings against sums written element by element in float64."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hanlin.export.merged import MergedWeights, measure
from hanlin.export.shards import plan_shards
from hanlin.model.adapter_files import read_adapter
from hanlin.model.weights import open_weights


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 9),
    width=st.integers(1, 9),
    rank=st.integers(1, 5),
    alpha=st.sampled_from([1.0, 8.0, 32.0]),
    rslora=st.booleans(),
    transposed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    new_rows=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
def test_merge_equals_float64(
    out: int, width: int, rank: int, alpha: float, rslora: bool, transposed: bool, dtype: torch.dtype, new_rows: int,
    seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weight = draw(width, out) if transposed else draw(out, width)
    base = {"m.q_proj.weight": weight.to(dtype), "m.embed_tokens.weight": draw(5, width).to(dtype)}
    a, b, embedding = draw(rank, width), draw(out, rank), draw(5 + new_rows, width)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file({key: value.contiguous() for key, value in base.items()}, folder / "model.safetensors")
        prefix = "base_model.model.m"
        adapter = {
            f"{prefix}.q_proj.lora_A.weight": a,
            f"{prefix}.q_proj.lora_B.weight": b,
            f"{prefix}.embed_tokens.weight": embedding,
        }
        save_file(adapter, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"], "use_rslora": rslora,
            "modules_to_save": ["embed_tokens"], "fan_in_fan_out": transposed,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        merged = MergedWeights(open_weights(folder, "base"), read_adapter(folder), tied=True)
        got = merged.load("m.q_proj.weight")
        assert merged.tied and merged.shapes()["m.embed_tokens.weight"] == (5 + new_rows, width)
        assert torch.equal(merged.load("m.embed_tokens.weight"), embedding.to(dtype))
    scale = alpha / math.sqrt(rank) if rslora else alpha / rank
    exact = np.empty((out, width))
    size = np.empty((out, width))
    for i in range(out):
        for j in range(width):
            old = float(base["m.q_proj.weight"][(j, i) if transposed else (i, j)])
            terms = [float(b[i, k]) * float(a[k, j]) * scale for k in range(rank)]
            exact[i, j] = old + sum(terms)
            size[i, j] = abs(old) + sum(abs(term) for term in terms)
    found = got.double().numpy().T if transposed else got.double().numpy()
    assert got.dtype == dtype
    # One rounding to the stored dtype, and float32 sums of rank + 1 terms.
    bound = torch.finfo(dtype).eps / 2 * np.abs(exact) * 1.001 + (rank + 3) * 2.0**-23 * size + torch.finfo(dtype).tiny
    assert (np.abs(found - exact) <= bound).all()


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), max_size=30), limit=st.integers(1, 80))
def test_shards_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    named = {f"t{i}": size for i, size in enumerate(sizes)}
    groups = plan_shards(named, limit)
    assert [name for group in groups for name in group] == list(named)
    assert all(group for group in groups)
    for group in groups:
        assert sum(named[name] for name in group) <= limit or len([n for n in group if named[n]]) == 1


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), new=st.integers(0, 5), seed=st.integers(0, 99))
def test_measured_change_is_the_norm_over_old_rows(rows: int, new: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = (torch.randn(n, 3, generator=generator) for n in (rows, rows + new))
    change = measure("m.lm_head.weight", "replaced", before, after)
    expected = float(np.linalg.norm((after[:rows] - before).double().numpy()) ** 2)
    assert math.isclose(change.change, expected, rel_tol=1e-5)
    assert change.new_rows == new and change.module == "lm_head"
