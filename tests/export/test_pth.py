"""The pth layout against the published direction (original to transformers), written here from its definition."""

from __future__ import annotations

import pytest
import torch

from hanlin.errors import UserError
from hanlin.export import pth

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
}


def reference_permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Original to transformers, row by row: row 2j+h of a head goes to row h*d/2 + j."""
    result = torch.empty_like(weight)
    head_dim = weight.shape[0] // heads
    for head in range(heads):
        for pair in range(head_dim // 2):
            for half in range(2):
                result[head * head_dim + half * head_dim // 2 + pair] = weight[head * head_dim + 2 * pair + half]
    return result


def tiny_state(vocab: int = 51) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (vocab, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (vocab, 32),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "self_attn.q_proj.weight": (32, 32),
            prefix + "self_attn.k_proj.weight": (16, 32),
            prefix + "self_attn.v_proj.weight": (16, 32),
            prefix + "self_attn.o_proj.weight": (32, 32),
            prefix + "mlp.gate_proj.weight": (48, 32),
            prefix + "mlp.up_proj.weight": (48, 32),
            prefix + "mlp.down_proj.weight": (32, 48),
            prefix + "input_layernorm.weight": (32,),
            prefix + "post_attention_layernorm.weight": (32,),
        }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("num_shards", [1, 2])
def test_original_to_transformers_conversion_gives_the_tensors_back(num_shards: int) -> None:
    state = tiny_state()
    layout = pth.PthLayout.of(TINY, num_shards, "model")
    files: list[dict[str, torch.Tensor]] = [{} for _ in range(num_shards)]
    for name, weight in state.items():
        target, parts = pth.to_parts(name, weight, layout, "model")
        for file, part in zip(files, parts, strict=True):
            file[target] = part

    def joined(name: str, dim: int | None) -> torch.Tensor:
        return files[0][name] if dim is None else torch.cat([file[name] for file in files], dim=dim)

    # The conversion that transformers documents, spelled out: axis by axis, q and k permuted.
    assert torch.equal(joined("tok_embeddings.weight", 1), state["model.embed_tokens.weight"])
    assert torch.equal(joined("output.weight", 0), state["lm_head.weight"])
    assert torch.equal(joined("norm.weight", None), state["model.norm.weight"])
    for layer in range(2):
        theirs, ours = f"layers.{layer}.", f"model.layers.{layer}."
        q = reference_permute(joined(theirs + "attention.wq.weight", 0), 4)
        k = reference_permute(joined(theirs + "attention.wk.weight", 0), 2)
        assert torch.equal(q, state[ours + "self_attn.q_proj.weight"])
        assert torch.equal(k, state[ours + "self_attn.k_proj.weight"])
        for their_name, our_name, dim in (
            ("attention.wv", "self_attn.v_proj", 0),
            ("attention.wo", "self_attn.o_proj", 1),
            ("feed_forward.w1", "mlp.gate_proj", 0),
            ("feed_forward.w2", "mlp.down_proj", 1),
            ("feed_forward.w3", "mlp.up_proj", 0),
            ("attention_norm", "input_layernorm", None),
            ("ffn_norm", "post_attention_layernorm", None),
        ):
            assert torch.equal(joined(f"{theirs}{their_name}.weight", dim), state[f"{ours}{our_name}.weight"])
    assert len(files[0]) == len(state), "no tensor lost"
    if num_shards == 2:
        assert [file["output.weight"].shape[0] for file in files] == [25, 26], "the remainder goes to the last file"


@pytest.mark.parametrize("num_shards", [1, 2])
def test_parts_join_to_the_same_tensor(num_shards: int) -> None:
    layout = pth.PthLayout.of(TINY, num_shards, "model")
    for name, weight in tiny_state().items():
        _, parts = pth.to_parts(name, weight, layout, "model")
        assert torch.equal(pth.from_parts(name, parts, layout, "model"), weight)
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), "no part keeps the whole alive"


def test_interleaved_attention_equals_rotate_half_attention() -> None:
    """Scores of the original computation (complex numbers over neighbouring pairs) equal those of transformers."""
    heads, kv_heads, head_dim, tokens = 4, 2, 8, 6
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 32, generator=generator, dtype=torch.float64)
    q = torch.randn(heads * head_dim, 32, generator=generator, dtype=torch.float64)
    k = torch.randn(kv_heads * head_dim, 32, generator=generator, dtype=torch.float64)
    angle = torch.arange(tokens).double()[:, None] / 10000 ** (torch.arange(0, head_dim, 2).double() / head_dim)

    def half(weight: torch.Tensor, count: int) -> torch.Tensor:
        value = (x @ weight.T).view(tokens, count, head_dim)
        turned = torch.cat([-value[..., head_dim // 2 :], value[..., : head_dim // 2]], dim=-1)
        cos, sin = (torch.cat([f(angle)] * 2, dim=-1)[:, None] for f in (torch.cos, torch.sin))
        return value * cos + turned * sin

    def pairs(weight: torch.Tensor, count: int) -> torch.Tensor:
        value = torch.view_as_complex((x @ weight.T).view(tokens, count, head_dim // 2, 2))
        return torch.view_as_real(value * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(2)

    def scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return torch.einsum("thd,shd->hts", query, key.repeat_interleave(heads // kv_heads, dim=1))

    ours = scores(pairs(pth.to_interleaved(q, heads), heads), pairs(pth.to_interleaved(k, kv_heads), kv_heads))
    theirs = scores(half(q, heads), half(k, kv_heads))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert not torch.allclose(scores(pairs(q, heads), pairs(k, kv_heads)), theirs), "the order matters"


def published(dim: int, heads: int, layers: int, inner: int, kv: int | None = None) -> dict[str, object]:
    return {
        "model_type": "llama", "hidden_size": dim, "num_attention_heads": heads, "num_hidden_layers": layers,
        "intermediate_size": inner, "num_key_value_heads": kv, "rms_norm_eps": 1e-5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "num_shards", "multiple_of", "extra"),
    [
        (published(4096, 32, 4, 11008), 1, 256, {}),
        (published(4096, 32, 32, 11008), 1, 256, {}),
        (published(5120, 40, 40, 13824), 2, 256, {}),
        (published(6656, 52, 60, 17920), 4, 256, {}),
        (published(8192, 64, 80, 22016), 8, 256, {}),
        (published(8192, 64, 80, 28672, kv=8), 8, 4096, {"ffn_dim_multiplier": 1.3, "n_kv_heads": 8}),
    ],
)
def test_published_sizes(
    config: dict[str, object], num_shards: int, multiple_of: int, extra: dict[str, object]
) -> None:
    assert pth.PthLayout.of(config, None, "model").num_shards == num_shards
    assert (
        pth.params(config)
        == {
            "dim": config["hidden_size"],
            "multiple_of": multiple_of,
            "n_heads": config["num_attention_heads"],
            "n_layers": config["num_hidden_layers"],
            "norm_eps": 1e-5,
            "vocab_size": -1,
        }
        | extra
    )


@pytest.mark.parametrize("inner", [48, 128, 97, 1000, 14336])
def test_any_feed_forward_size_can_be_said(inner: int) -> None:
    config = published(64, 4, 2, inner)
    said = pth.params(config)
    assert pth.feed_forward_size(64, said["multiple_of"], said.get("ffn_dim_multiplier")) == inner


def test_refusals() -> None:
    with pytest.raises(UserError, match="has no pth form"):
        pth.PthLayout.of(TINY | {"model_type": "qwen2"}, None, "model")
    with pytest.raises(UserError, match="2 key/value heads do not divide over 4 files"):
        pth.PthLayout.of(TINY, 4, "model")
    with pytest.raises(UserError, match=r"self_attn\.q_proj\.bias has no pth form"):
        pth.pth_name("model.layers.0.self_attn.q_proj.bias", "model")
    assert pth.is_dropped("model.layers.0.self_attn.rotary_emb.inv_freq")
