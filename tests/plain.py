"""Slow plain forward passes, written from the public descriptions: the reference where no numbers of old code are.

In float64 and with complex numbers for the rotation; every fused matrix is walked head by head. Not a line is shared
with the package. They are themselves compared with the numbers of the old code where a family has some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Config = Mapping[str, Any]


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each row divided by its root mean square."""
    return torch.stack([weight * row / (row.square().mean() + eps).sqrt() for row in x])


def turned(x: Tensor, frequencies: Sequence[float], positions: Tensor, *, adjacent: bool) -> Tensor:
    """``x`` [T, d] with its first 2n numbers turned as n pairs: neighbours, or number i and i + n."""
    n = len(frequencies)
    first, second = (x[:, 0 : 2 * n : 2], x[:, 1 : 2 * n : 2]) if adjacent else (x[:, :n], x[:, n : 2 * n])
    angles = positions[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    z = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    pairs = torch.stack([z.real, z.imag], dim=-1).flatten(1) if adjacent else torch.cat([z.real, z.imag], dim=-1)
    return torch.cat([pairs, x[:, 2 * n :]], dim=-1)


def frequencies(base: float, size: int) -> list[float]:
    return [base ** (-2 * i / size) for i in range(size // 2)]


def attended(queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Causal attention; query head i of H uses key head i * G // H. Returns [T, H * d]."""
    heads = []
    for index, query in enumerate(queries):
        group = index * len(keys) // len(queries)
        scores = query @ keys[group].T / math.sqrt(query.shape[1])
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(hidden, -math.inf).softmax(dim=-1) @ values[group])
    return torch.cat(heads, dim=-1)


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def internlm2(config: Config, weights: Weights, ids: Tensor) -> Tensor:
    """Logits [T, V] of InternLM2 for ``ids`` [T]."""
    heads, groups, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    size, length = config["hidden_size"] // heads, len(ids)
    base, positions = float(config["rope_theta"]), torch.arange(length, dtype=torch.float64)
    scaling, most = config.get("rope_scaling") or {}, config["max_position_embeddings"]
    if scaling.get("type") == "dynamic" and length > most:
        stretch = scaling["factor"] * length / most - (scaling["factor"] - 1)
        base *= stretch ** (size / (size - 2))
    if scaling.get("type") == "linear":
        positions = positions / scaling["factor"]
    x = weights["model.tok_embeddings.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        fused = linear(norm(x, weights[f"{at}.attention_norm.weight"], eps), weights, f"{at}.attention.wqkv")
        pieces = iter(fused.split(size, dim=-1))
        queries, keys, values = [], [], []
        for _ in range(groups):  # its queries, its key, its value; then the next group
            queries += [next(pieces) for _ in range(heads // groups)]
            keys.append(next(pieces))
            values.append(next(pieces))
        speeds = frequencies(base, size)
        queries, keys = ([turned(h, speeds, positions, adjacent=False) for h in part] for part in (queries, keys))
        x = x + linear(attended(queries, keys, values), weights, f"{at}.attention.wo")
        h = norm(x, weights[f"{at}.ffn_norm.weight"], eps)
        w1, w3 = (linear(h, weights, f"{at}.feed_forward.{name}") for name in ("w1", "w3"))
        x = x + linear(w1 * w1.sigmoid() * w3, weights, f"{at}.feed_forward.w2")
    return linear(norm(x, weights["model.norm.weight"], eps), weights, "output")


def chatglm(config: Config, weights: Weights, ids: Tensor, *, ratio_of: str = "base") -> Tensor:
    """Logits [T, V] of ChatGLM2, ChatGLM3 and GLM-4; ``rope_ratio`` multiplies the base or divides the positions."""
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    size, eps, ratio = config["kv_channels"], config["layernorm_epsilon"], config.get("rope_ratio", 1)
    positions = torch.arange(len(ids), dtype=torch.float64) / (ratio if ratio_of == "positions" else 1)
    speeds = frequencies(10000.0 * (ratio if ratio_of == "base" else 1), size // 2)
    x = weights["transformer.embedding.word_embeddings.weight"][ids]
    for layer in range(config["num_layers"]):
        at = f"transformer.encoder.layers.{layer}"
        h = norm(x, weights[f"{at}.input_layernorm.weight"], eps)
        pieces = linear(h, weights, f"{at}.self_attention.query_key_value").split(size, dim=-1)
        queries, keys = (
            [turned(h, speeds, positions, adjacent=True) for h in part]
            for part in (pieces[:heads], pieces[heads : heads + groups])
        )
        out = attended(queries, keys, list(pieces[heads + groups :]))
        x = x + linear(out, weights, f"{at}.self_attention.dense")
        h = norm(x, weights[f"{at}.post_attention_layernorm.weight"], eps)
        both = linear(h, weights, f"{at}.mlp.dense_h_to_4h")
        gate, up = both[:, : config["ffn_hidden_size"]], both[:, config["ffn_hidden_size"] :]
        x = x + linear(gate * gate.sigmoid() * up, weights, f"{at}.mlp.dense_4h_to_h")
    return linear(
        norm(x, weights["transformer.encoder.final_layernorm.weight"], eps), weights, "transformer.output_layer"
    )


Forward = Callable[[Config, Weights, Tensor], Tensor]


def computed(forward: Forward, config: Config, tensors: Weights, run: dict[str, Any]) -> dict[str, Any]:
    """``run`` (``input_ids``, ``attention_mask`` or None) with logits, mean loss and norms of all gradients.

    Rows are padded on the left at most; logits of padding are 0 and not to be compared.
    """
    weights = {key: tensor.double().requires_grad_() for key, tensor in tensors.items()}
    ids = torch.tensor(run["input_ids"])
    mask = torch.tensor(run["attention_mask"]) if run["attention_mask"] else torch.ones_like(ids)
    rows, losses = [], []
    for row, seen in zip(ids, mask, strict=True):
        text = row[int((seen == 0).sum()) :]
        logits = forward(config, weights, text)
        rows.append(torch.cat([logits.new_zeros(len(row) - len(text), logits.shape[1]), logits]))
        chosen = logits[:-1].log_softmax(dim=-1)
        losses += [-chosen[index, token] for index, token in enumerate(text[1:].tolist())]
    loss = torch.stack(losses).mean()
    loss.backward()
    return {
        **run,
        "logits_last": ids.shape[1],
        "logits": torch.stack(rows).tolist(),
        "loss": loss.item(),
        "grad_norms": {key: weight.grad.norm().item() for key, weight in weights.items() if weight.grad is not None},
        "grads": {key: weight.grad for key, weight in weights.items()},
    }


INTERNLM2: dict[str, Any] = {
    "model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager",
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "bias": False,
    "tie_word_embeddings": False, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
}  # fmt: skip
"""As in the released files (InternLM2.5-7B-Chat), with small sizes."""

CHATGLM3: dict[str, Any] = {
    "model_type": "chatglm", "num_layers": 2, "padded_vocab_size": 40, "hidden_size": 32, "ffn_hidden_size": 48,
    "kv_channels": 8, "num_attention_heads": 4, "seq_length": 64, "layernorm_epsilon": 1e-05, "rmsnorm": True,
    "add_bias_linear": False, "add_qkv_bias": True, "multi_query_attention": True, "multi_query_group_num": 2,
    "original_rope": True, "post_layer_norm": True, "apply_residual_connection_post_layernorm": False,
    "rope_ratio": 50, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
"""ChatGLM3-6B-32k in small; ``rope_ratio`` is the released value."""

GLM4: dict[str, Any] = CHATGLM3 | {
    "rope_ratio": 500, "layernorm_epsilon": 1.5625e-07, "eos_token_id": [36, 37, 38], "pad_token_id": 36,
}  # fmt: skip
"""GLM-4-9B-Chat in the layout with code, in small; 36 to 38 stand for 151329, 151336 and 151338."""


def internlm2_shapes(config: Config) -> dict[str, list[int]]:
    hidden, heads, groups = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    fused = (heads + 2 * groups) * (hidden // heads)
    shapes = {"model.tok_embeddings.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.attention_norm.weight": [hidden],
            f"{at}.attention.wqkv.weight": [fused, hidden],
            f"{at}.attention.wo.weight": [hidden, hidden],
            f"{at}.ffn_norm.weight": [hidden],
            f"{at}.feed_forward.w1.weight": [config["intermediate_size"], hidden],
            f"{at}.feed_forward.w3.weight": [config["intermediate_size"], hidden],
            f"{at}.feed_forward.w2.weight": [hidden, config["intermediate_size"]],
        }
        if config["bias"]:
            shapes |= {f"{at}.attention.wqkv.bias": [fused], f"{at}.attention.wo.bias": [hidden]}
    return shapes | {"output.weight": [config["vocab_size"], hidden]}


def formulas(shapes: Mapping[str, list[int]]) -> list[list[Any]]:
    """Name, shape, stream, mean and amplitude of each tensor, as the golden file has them: norms are never 1."""
    return [
        [key, shape, stream, *((1.0, 0.8) if "norm" in key else (0.0, 1.5 if "qkv" in key or "query" in key else 0.5))]
        for stream, (key, shape) in enumerate(shapes.items(), start=1)
    ]


SHORT = [[8, 26, 21, 30, 16, 16, 30, 21, 26, 8, 4, 14], [12, 20, 35, 29, 30, 4, 25, 19, 23, 33, 24, 21]]
PADDED = [[1] * 12, [1] * 12, [0] * 5 + [1] * 7]
"""Mask of the run with a shorter third row."""


def runs(length: int) -> list[dict[str, Any]]:
    """What every case computes: short rows in both modes, padded rows, and one row of ``length`` tokens."""
    long = [[(index * 7 + index * index) % 30 + 4 for index in range(length)]]
    return [
        {"label": "training mode", "input_ids": SHORT, "attention_mask": None, "training": True},
        {"label": "eval", "input_ids": SHORT, "attention_mask": None, "training": False},
        {"label": "left padding", "input_ids": [*SHORT, [0] * 5 + SHORT[0][:7]], "attention_mask": PADDED,
         "training": True},
        {"label": "long", "input_ids": long, "attention_mask": None, "training": False},
    ]  # fmt: skip
