"""The eyes of Qwen-VL v1: a vision transformer and a resampler that turn a picture into 256 vectors of the text model.

Parameter names are those of the published weights. No class of transformers computes this: there is no class token, a
norm stands before the blocks, and the fused projection of a block holds (query, key, value) head by head, unlike that
of the text part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

QUERIES = 256
"""Vectors that stand for one picture, and entries of both tables of positions (16 x 16)."""
POOL_HEAD = 128
"""Size of a head of the resampler."""
EPS = 1e-6


def resized(table: Tensor, places: int) -> Tensor:
    """A square table of positions [n, D] for ``places`` positions, between them by bicubic curves in float32."""
    if len(table) == places:
        return table
    old, new = math.isqrt(len(table)), math.isqrt(places)
    grid = table.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(places, -1).to(table.dtype)


class VisionAttention(nn.Module):
    """Full attention over the patches of one picture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, width] to the same."""
        fused = self.in_proj(x).view(*x.shape[:2], self.heads, 3, -1)
        query, key, value = (part.transpose(1, 2) for part in fused.unbind(dim=3))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class VisionMLP(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, width] to the same."""
        out: Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return out


class VisionBlock(GradientCheckpointingLayer):
    """One block, norms first."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPS)
        self.ln_2 = nn.LayerNorm(width, eps=EPS)
        self.attn = VisionAttention(width, heads)
        self.mlp = VisionMLP(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, width] to the same."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class VisionBlocks(nn.Module):
    """The blocks, under their published name."""

    def __init__(self, layers: int, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(width, heads, inner) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, width] to the same."""
        for block in self.resblocks:
            x = block(x)
        return x


class PoolAttention(nn.Module):
    """Attention of the learned queries to the patches; rows of the fused projection are [query; key; value]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // POOL_HEAD
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [B, 256, D], key and value [B, n, D] to [B, 256, D]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            functional.linear(x, weight, bias).view(*x.shape[:2], self.heads, POOL_HEAD).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Resampler(nn.Module):
    """From any number of patches to 256 vectors."""

    pos_embed: Tensor

    def __init__(self, width: int, output: int) -> None:
        super().__init__()
        # A table of sines that was never trained, so no parameter; stored with the weights all the same.
        self.register_buffer("pos_embed", torch.empty(QUERIES, output))
        self.query = nn.Parameter(torch.empty(QUERIES, output))
        self.kv_proj = nn.Linear(width, output, bias=False) if width != output else nn.Identity()
        self.attn = PoolAttention(output)
        self.ln_q = nn.LayerNorm(output, eps=EPS)
        self.ln_kv = nn.LayerNorm(output, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, width] to [B, 256, D]. Positions are added to queries and keys, and not to values."""
        x = self.ln_kv(self.kv_proj(x))
        query = (self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1)
        out: Tensor = self.attn(query, x + resized(self.pos_embed, x.shape[1]), x)
        return out


class VisionTower(nn.Module):
    """Pictures to vectors of the text model's hidden size."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """``settings``: the object ``visual`` of the published config.json."""
        super().__init__()
        width, output, patch = settings["width"], settings["output_dim"], settings["patch_size"]
        self.image_size: int = settings["image_size"]
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(QUERIES, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.transformer = VisionBlocks(
            settings["layers"], width, settings["heads"], int(width * settings["mlp_ratio"])
        )
        self.attn_pool = Resampler(width, output)
        self.ln_post = nn.LayerNorm(output, eps=EPS)
        self.proj = nn.Parameter(torch.empty(output, output))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] to [B, 256, D]."""
        x = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + resized(self.positional_embedding, x.shape[1]))
        x = self.attn_pool(self.transformer(x))
        out: Tensor = self.ln_post(x) @ self.proj
        return out

    def blank(self) -> Tensor:
        """One picture of zeros [1, 3, S, S]."""
        weight = self.conv1.weight
        return torch.zeros(1, 3, self.image_size, self.image_size, dtype=weight.dtype, device=weight.device)
