"""The ``pth`` layout: ``consolidated.0{i}.pth`` and ``params.json``, as Meta published LLaMA and Llama 2.

Pure functions on tensors and dicts; files are written by ``shards.py``. Three things differ from a
transformers folder:

* names: ``model.layers.0.self_attn.q_proj.weight`` is ``layers.0.attention.wq.weight``;
* q and k rows: transformers turns the first half of a head's rows against the second half (rotate-half), the
  original turns neighbouring rows (2j, 2j+1). With d = 4 a head's rows are [0, 2, 1, 3] there, [0, 1, 2, 3] here;
* several files: every tensor is cut into ``num_shards`` parts along one axis, one for each tensor-parallel rank.

Shapes: D model, V vocabulary rows, F feed-forward, H query heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hanlin.errors import UserError

NUM_SHARDS: Mapping[tuple[int, int], int] = {
    (4096, 4): 1,
    (4096, 32): 1,
    (5120, 40): 2,
    (6656, 60): 4,
    (8192, 80): 8,
}
"""(hidden size, layers) of the published sizes 1.3B, 7B, 13B, 33B and 65B/70B to their number of files."""

MULTIPLE_OF: Sequence[tuple[int, float | None]] = ((256, None), (4096, 1.3), (1024, 1.3))
"""(multiple_of, ffn_dim_multiplier) of the published models, tried in this order."""

Axis = Literal["rows", "columns", "copy"]

_OUTSIDE: Mapping[str, tuple[str, Axis]] = {
    "model.embed_tokens.weight": ("tok_embeddings.weight", "columns"),
    "model.norm.weight": ("norm.weight", "copy"),
    "lm_head.weight": ("output.weight", "rows"),
}
_IN_LAYER: Mapping[str, tuple[str, Axis]] = {
    "self_attn.q_proj.weight": ("attention.wq.weight", "rows"),
    "self_attn.k_proj.weight": ("attention.wk.weight", "rows"),
    "self_attn.v_proj.weight": ("attention.wv.weight", "rows"),
    "self_attn.o_proj.weight": ("attention.wo.weight", "columns"),
    "mlp.gate_proj.weight": ("feed_forward.w1.weight", "rows"),
    "mlp.down_proj.weight": ("feed_forward.w2.weight", "columns"),
    "mlp.up_proj.weight": ("feed_forward.w3.weight", "rows"),
    "input_layernorm.weight": ("attention_norm.weight", "copy"),
    "post_attention_layernorm.weight": ("ffn_norm.weight", "copy"),
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class PthLayout:
    """What of a Llama's shape decides the cut: head counts and the number of files."""

    num_heads: int
    num_kv_heads: int
    num_shards: int

    @classmethod
    def of(cls, config: Mapping[str, Any], num_shards: int | None, place: str) -> PthLayout:
        """Layout of a transformers Llama ``config`` (the dict of config.json).

        ``num_shards`` None takes the published number for the size, 1 for any other size. Raises UserError for
        an architecture that the format cannot hold and for heads that do not divide over the files.
        """
        if config.get("model_type") != "llama":
            raise UserError(
                place,
                f"model type {config.get('model_type')!r} has no pth form",
                expected="llama",
                mend="use --output_type safetensors",
            )
        num_heads = int(config["num_attention_heads"])
        num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
        size = (int(config["hidden_size"]), int(config["num_hidden_layers"]))
        shards = NUM_SHARDS.get(size, 1) if num_shards is None else num_shards
        for what, count in (
            ("attention heads", num_heads),
            ("key/value heads", num_kv_heads),
            ("embedding columns", size[0]),
            ("feed-forward rows", int(config["intermediate_size"])),
        ):
            if shards < 1 or count % shards:
                raise UserError(
                    "--num_shards",
                    f"{count} {what} do not divide over {shards} files",
                    expected=f"a divisor of {count}",
                )
        return cls(num_heads, num_kv_heads, shards)


def is_dropped(name: str) -> bool:
    """Whether ``name`` is left out because it is computed from the configuration (rotary tables)."""
    return name.endswith("rotary_emb.inv_freq")


def pth_name(name: str, place: str) -> tuple[str, Axis]:
    """Name in a pth file and axis of the cut; UserError for a tensor that the format does not have."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match and match[2] in _IN_LAYER:
        inner, axis = _IN_LAYER[match[2]]
        return f"layers.{match[1]}.{inner}", axis
    raise UserError(place, f"tensor {name} has no pth form", mend="use --output_type safetensors")


def to_interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a q or k projection [heads*d, D] from rotate-half order to neighbouring pairs; same dtype.

    The rows of one head, seen as [2, d/2] (half, pair), become [d/2, 2] (pair, half).
    ``heads`` is H for q and K for k: with grouped queries the two differ, and k has fewer rows than D.
    """
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def to_rotate_half(weight: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`to_interleaved`."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def cut(weight: Tensor, axis: Axis, num_shards: int) -> list[Tensor]:
    """``num_shards`` parts of ``weight``, each contiguous and with its own memory.

    ``rows`` that do not divide leave their remainder to the last part: 49,953 rows over 2 files are 24,976 and
    24,977 (only ``output`` can come to this; PthLayout refuses the rest). ``copy`` gives every file the whole.
    """
    if axis == "copy":
        return [weight.clone() for _ in range(num_shards)]
    dim = 0 if axis == "rows" else 1
    size = weight.shape[dim] // num_shards
    starts = [size * i for i in range(num_shards)]
    ends = [*starts[1:], weight.shape[dim]]
    return [
        weight.narrow(dim, start, end - start).clone(memory_format=torch.contiguous_format)
        for start, end in zip(starts, ends, strict=True)
    ]


def join(parts: Sequence[Tensor], axis: Axis) -> Tensor:
    """The inverse of :func:`cut`."""
    if axis == "copy" or len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts), dim=0 if axis == "rows" else 1)


def to_parts(name: str, weight: Tensor, layout: PthLayout, place: str) -> tuple[str, list[Tensor]]:
    """A transformers tensor as (name in the pth files, one part for each file)."""
    target, axis = pth_name(name, place)
    return target, cut(_reorder(name, weight, layout, to_interleaved), axis, layout.num_shards)


def from_parts(name: str, parts: Sequence[Tensor], layout: PthLayout, place: str) -> Tensor:
    """The transformers tensor ``name`` out of its parts: the inverse of :func:`to_parts`."""
    return _reorder(name, join(parts, pth_name(name, place)[1]), layout, to_rotate_half)


def _reorder(name: str, weight: Tensor, layout: PthLayout, order: Any) -> Tensor:
    if name.endswith("q_proj.weight"):
        return order(weight, layout.num_heads)  # type: ignore[no-any-return]
    if name.endswith("k_proj.weight"):
        return order(weight, layout.num_kv_heads)  # type: ignore[no-any-return]
    return weight


def params(config: Mapping[str, Any]) -> dict[str, Any]:
    """``params.json`` for a transformers Llama ``config``.

    The loader of the format computes the feed-forward size F as int(8D/3), times ``ffn_dim_multiplier``, rounded
    up to ``multiple_of``; the published pair is used where it gives F, otherwise a multiplier that does.
    ``vocab_size`` is -1 as published: the loader takes it from the tokenizer.
    """
    dim, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    num_heads = int(config["num_attention_heads"])
    multiple_of, multiplier = _multiple_of(dim, inner)
    result: dict[str, Any] = {
        "dim": dim,
        "multiple_of": multiple_of,
        "n_heads": num_heads,
        "n_layers": int(config["num_hidden_layers"]),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "vocab_size": -1,
    }
    if multiplier is not None:
        result["ffn_dim_multiplier"] = multiplier
    if int(config.get("num_key_value_heads") or num_heads) != num_heads:
        result["n_kv_heads"] = int(config["num_key_value_heads"])
    theta = rope_theta(config)
    if theta != 10000.0:
        result["rope_theta"] = theta
    return result


def rope_theta(config: Mapping[str, Any]) -> float:
    """Base of the rotary angles: in ``rope_parameters`` since transformers 5, ``rope_theta`` before."""
    inner = config.get("rope_parameters") or {}
    return float(inner.get("rope_theta") or config.get("rope_theta") or 10000.0)


def feed_forward_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """F as the loader of the format computes it."""
    size = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        size = int(multiplier * size)
    return multiple_of * ((size + multiple_of - 1) // multiple_of)


def _multiple_of(dim: int, inner: int) -> tuple[int, float | None]:
    for multiple_of, multiplier in MULTIPLE_OF:
        if feed_forward_size(dim, multiple_of, multiplier) == inner:
            return multiple_of, multiplier
    # The largest power of two that divides F, and half a unit above F so that int() lands on F exactly.
    multiple_of = min(256, inner & -inner)
    return multiple_of, (inner + 0.5) / int(2 * (4 * dim) / 3)
