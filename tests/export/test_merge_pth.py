"""Merges written as consolidated files, turned back by a conversion that the test spells out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hanlin.errors import UserError
from hanlin.export.merge import merge_checkpoint

Make = Callable[..., Path]


def convert_back(folder: Path, layers: int, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """Consolidated files to the names and the row order of transformers."""
    files = [torch.load(file, weights_only=True) for file in sorted(folder.glob("consolidated.*.pth"))]

    def whole(name: str, dim: int | None) -> torch.Tensor:
        return files[0][name] if dim is None else torch.cat([file[name] for file in files], dim=dim)

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        rows, columns = weight.shape
        return weight.view(count, rows // count // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    state = {
        "model.embed_tokens.weight": whole("tok_embeddings.weight", 1),
        "lm_head.weight": whole("output.weight", 0),
        "model.norm.weight": whole("norm.weight", None),
    }
    for i in range(layers):
        ours = f"model.layers.{i}."
        state[ours + "self_attn.q_proj.weight"] = halves(whole(f"layers.{i}.attention.wq.weight", 0), heads)
        state[ours + "self_attn.k_proj.weight"] = halves(whole(f"layers.{i}.attention.wk.weight", 0), kv_heads)
        state[ours + "self_attn.v_proj.weight"] = whole(f"layers.{i}.attention.wv.weight", 0)
        state[ours + "self_attn.o_proj.weight"] = whole(f"layers.{i}.attention.wo.weight", 1)
        state[ours + "mlp.gate_proj.weight"] = whole(f"layers.{i}.feed_forward.w1.weight", 0)
        state[ours + "mlp.down_proj.weight"] = whole(f"layers.{i}.feed_forward.w2.weight", 1)
        state[ours + "mlp.up_proj.weight"] = whole(f"layers.{i}.feed_forward.w3.weight", 0)
        state[ours + "input_layernorm.weight"] = whole(f"layers.{i}.attention_norm.weight", None)
        state[ours + "post_attention_layernorm.weight"] = whole(f"layers.{i}.ffn_norm.weight", None)
    assert sum(len(file) for file in files) == len(files) * len(state), "nothing else is in the files"
    return state


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_pth_holds_what_safetensors_hold(
    tmp_path: Path, make_base: Make, make_adapter: Make, num_shards: int, tied: bool
) -> None:
    base = make_base(kv_heads=2, dtype="float16", tied=tied)
    adapter = make_adapter(base, embedding_rows=81)
    plain = merge_checkpoint(base, [adapter], tmp_path / "hf", proof="none")
    report = merge_checkpoint(
        base, [adapter], tmp_path / "pth", output_type="pth", num_shards=num_shards, max_shard_bytes=20_000
    )
    assert report.identity == plain.identity, "the same weights, whatever the form"
    assert report.logits_proof is not None
    expected = load_file(tmp_path / "hf/model.safetensors")
    found = convert_back(tmp_path / "pth", layers=2, heads=4, kv_heads=2)
    if tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    names = {path.name for path in (tmp_path / "pth").iterdir()}
    assert {"params.json", "tokenizer.model", "hanlin.json", "checksums.json"} < names
    assert not any(name.startswith(".") for name in names), "no parts left"
    assert json.loads((tmp_path / "pth/params.json").read_text())["n_kv_heads"] == 2


def test_a_model_without_pth_form_is_refused_before_writing(
    tmp_path: Path, make_base: Make, make_adapter: Make
) -> None:
    base = make_base(attention_bias=True)
    with pytest.raises(UserError, match=r"_proj\.bias has no pth form"):
        merge_checkpoint(base, [make_adapter(base)], tmp_path / "out", output_type="pth")
    assert not (tmp_path / "out").exists()
