"""Qwen v1 past the length it was trained on, at inference only (training uses neither rule).

Dynamic NTK: a row of N tokens with trained length S is run with the rotary base times alpha^(d / (d - 2)), d the head
size and alpha = max(1, 2^ceil(log2(N / S) + 1) - 1): 1 up to S, 3 up to 2 S, 7 up to 4 S. Alpha is fixed when the
prompt is read and kept for the tokens that follow. The "dynamic" form of transformers is another formula.

Log-n: the query at position i (from 1) beyond S is multiplied by log_S(i). The code of 2023 counted padding among the
positions; here they are true ones, which differs for rows padded on the left past S only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RotaryEmbedding

_ALPHA = "hanlin_ntk_alpha"
"""Attribute of a cache: the alpha of each of its rows, float32 [B]."""


def ntk_alpha(num_tokens: int, trained: int) -> int:
    """Factor of the rotary base for a row of ``num_tokens``."""
    alpha: int = 2 ** math.ceil(math.log2(num_tokens / trained) + 1) - 1
    return max(1, alpha)


def has_long_rules(config: Any) -> bool:
    """Whether a native config comes from a Qwen v1 that changes its attention past the trained length."""
    rules = getattr(config, "use_dynamic_ntk", False) or getattr(config, "use_logn_attn", False)
    text = config.model_type in ("qwen2", "hanlin_qwen_vl")
    return text and isinstance(getattr(config, "seq_length", None), int) and bool(rules)


class QwenRotaryEmbedding(Qwen2RotaryEmbedding):
    """Rotary angles with one base for each row. transformers fills the tables of classes with this name's ending."""

    alpha: Tensor | None = None
    """float32 [B] for the pass that runs; None: the base of the config for all rows."""

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, T, d] in the dtype of ``x`` for position_ids int64 [B or 1, T]."""
        if self.alpha is None:
            plain: tuple[Tensor, Tensor] = super().forward(x, position_ids)
            return plain
        size = 2 * self.inv_freq.shape[0]
        exponent = torch.arange(0, size, 2, dtype=torch.float32, device=x.device) / size
        base = self.config.rope_parameters["rope_theta"] * self.alpha.to(x.device) ** (size / (size - 2))
        frequencies = 1.0 / base[:, None] ** exponent  # [B, d / 2]
        angles = position_ids[..., None].float() * frequencies[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class QwenLongAttention(Qwen2Attention):
    """Attention whose queries are multiplied by log-n first; a rotation does not change a factor."""

    def forward(self, hidden_states: Tensor, *args: Any, logn: Tensor | None = None, **kwargs: Any) -> Any:
        """``logn``: float32 [B, T, 1], or None where no position is beyond the trained length."""
        if logn is None:
            return super().forward(hidden_states, *args, **kwargs)
        # After the projection with whatever adapter is on it.
        handle = self.q_proj.register_forward_hook(lambda module, inputs, output: output * logn.to(output.dtype))
        try:
            return super().forward(hidden_states, *args, **kwargs)
        finally:
            handle.remove()


class QwenLongModel(Qwen2Model):
    """Qwen2Model with the two rules of Qwen v1 in evaluation mode."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.rotary_emb = QwenRotaryEmbedding(config=config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = QwenLongAttention(config, index)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As Qwen2Model's."""
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if not self.training:
            shape = (input_ids if input_ids is not None else inputs_embeds).shape  # type: ignore[union-attr]
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            device = self.embed_tokens.weight.device
            if position_ids is None:
                position_ids = torch.arange(past, past + shape[1], device=device)[None]
            self.rotary_emb.alpha = self._alpha(shape[0], past + shape[1], past, attention_mask, past_key_values)
            if self.config.use_logn_attn and past + shape[1] > self.config.seq_length:
                kwargs["logn"] = self._logn(position_ids)
        try:
            return super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **kwargs,
            )
        finally:
            self.rotary_emb.alpha = None

    def _alpha(self, rows: int, length: int, past: int, mask: Tensor | None, cache: Any) -> Tensor | None:
        """Alpha of each row, float32 [B]: of the prompt, and then what the cache remembers."""
        if not self.config.use_dynamic_ntk:
            return None
        if past:
            kept: Tensor | None = getattr(cache, _ALPHA, None)
            return kept
        trained = self.config.seq_length
        if length <= trained:
            found = None
        elif mask is not None and mask.dim() == 2:
            lengths = [max(1, n) for n in mask.ne(0).sum(dim=-1).tolist()]
            found = torch.tensor([float(ntk_alpha(n, trained)) for n in lengths])
        else:
            found = torch.full((rows,), float(ntk_alpha(length, trained)))
        if cache is not None:
            setattr(cache, _ALPHA, found)
        return found

    def _logn(self, position_ids: Tensor) -> Tensor:
        """log_S(i) for positions i > S, counted from 1, else 1; float32 [B or 1, T, 1]."""
        trained = self.config.seq_length
        position = (position_ids + 1).float()
        return torch.where(position > trained, position.log() / math.log(trained), 1.0)[..., None]


class QwenLongForCausalLM(Qwen2ForCausalLM):
    """Qwen v1 for inference. Never saved: the same weights are a plain Qwen2ForCausalLM."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = QwenLongModel(config)
        self.post_init()
