"""Baichuan-13B and Baichuan2-13B: Llama without rotation and with ALiBi, which transformers has no class for.

ALiBi (arXiv 2108.12409) adds slope * (j - i) to the score of query i and key j. Two forms of one function:

* a bias [heads, Q, K], for short inputs, for single steps with a cache, and for ``eager``;
* columns of queries and keys, for long ones: the part slope * j of the bias is a product of numbers that half precision
  holds exactly, and the rest is a constant of the row, which softmax ignores. No tensor of heads * T * T numbers exists
  then, and the kernels that need no mask can be used.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention

from hanlin.model.native.baichuan import BAICHUAN_MODULES
from hanlin.model.native.family import Family, Fields, attention_rows
from hanlin.model.native.head import divide_in_forward
from hanlin.model.native.llama_shaped import llama_settings

_COLUMNS = 8
"""Four columns carry the bias, four are zero: kernels want a multiple of eight."""


class AlibiLlamaConfig(LlamaConfig):
    """Llama with ALiBi in place of rotation. ``divide_rows``: the stored output matrix is not normalised yet."""

    model_type = "hanlin_alibi_llama"


class Bias(NamedTuple):
    """What the layers of one forward pass need to know of positions."""

    added: Tensor | None
    """float [B or 1, H, Q, K], bias and mask in one; None in the form of columns."""
    allowed: Tensor | None
    """bool [B, 1, Q, K] in the form of columns; None: causal, or a single query that sees all."""
    slopes: Tensor | None
    """float32 [H] in the form of columns."""
    keys: Tensor | None
    """[K, 8] in the form of columns."""


def alibi_slopes(num_heads: int) -> list[float]:
    """One slope a head. With m the largest power of two up to n: 2^(-8k/m) for k = 1..m, and for the others
    2^(-4(2k-1)/m), which lie between them. 40 heads: 2^(-k/4), k = 1..32, then 2^(-(2k-1)/8), k = 1..8."""
    m = 2 ** math.floor(math.log2(num_heads))
    first = [2.0 ** (-8 * k / m) for k in range(1, m + 1)]
    return first + [2.0 ** (-4 * (2 * k - 1) / m) for k in range(1, num_heads - m + 1)]


def visible(
    attention_mask: Tensor | None, position_ids: Tensor | None, *, rows: int, num_queries: int, past: int
) -> Tensor | None:
    """Which keys a query may see, bool [B, 1, Q, K]; None for plain causal attention.

    attention_mask: [B, K], 0 for padding; numbers above 1 are those of packed segments. position_ids: [B, Q], read for
    packing (they start again at each document) where there is neither mask nor cache. Every query sees at least itself.
    """
    segments = None
    if attention_mask is not None:
        # Padding on the right is behind all that is real: a causal pass does not see it.
        padded_right = (attention_mask[:, :1] == 1).all() & (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()
        if not bool(padded_right):
            segments = attention_mask
    elif position_ids is not None and past == 0:
        starts = position_ids[:, 1:] != position_ids[:, :-1] + 1
        if bool(starts.any()):
            segments = functional.pad(starts.cumsum(dim=1), (1, 0)) + 1
            segments = segments.expand(rows, -1)
    if segments is None:
        return None
    device = segments.device
    num_keys = past + num_queries
    query, key = torch.arange(past, num_keys, device=device)[:, None], torch.arange(num_keys, device=device)[None]
    own = segments[:, past:, None]
    seen = (segments[:, None, :] == own) & (key <= query)
    return (seen | (key == query))[:, None]


class AlibiAttention(LlamaAttention):
    """Attention with the parameters of Llama's and a bias in place of the rotation."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Bias | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states: [B, Q, D]; ``attention_mask`` is the pass's Bias."""
        assert attention_mask is not None, "AlibiLlamaModel gives every layer its bias"
        bias, shape = attention_mask, (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        weights = None
        if bias.added is None:
            output = self._with_columns(query, key, value, bias)
        elif self.config._attn_implementation == "eager":
            scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling + bias.added
            weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
            output = torch.matmul(weights, value)
        else:
            output = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias.added, scale=self.scaling
            )
        return self.o_proj(output.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), weights

    def _with_columns(self, query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
        assert bias.slopes is not None and bias.keys is not None
        rows, heads, length, _ = query.shape
        # Products are multiplied by the scale of the scores, so the columns are divided by it. Their two parts are
        # made for the dtype of the queries, which under autocast is not that of the hidden states.
        columns = _query_columns(bias.slopes / self.scaling, query.dtype).expand(rows, heads, length, _COLUMNS)
        query = torch.cat([query, columns], dim=-1)
        key = torch.cat([key, bias.keys.to(key.dtype).expand(rows, heads, -1, _COLUMNS)], dim=-1)
        output = functional.scaled_dot_product_attention(
            query,
            key,
            functional.pad(value, (0, _COLUMNS)),
            attn_mask=bias.allowed,
            is_causal=bias.allowed is None,
            scale=self.scaling,
        )
        return output[..., : self.head_dim]


class AlibiLlamaModel(LlamaModel):
    """Hidden states of a Llama with ALiBi. Names and shapes of the parameters are Llama's."""

    config_class = AlibiLlamaConfig
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False

    most_added = 2**22
    """Numbers in a bias of one row (heads * Q * K) up to which it is made as a tensor; beyond come columns."""

    def __init__(self, config: AlibiLlamaConfig) -> None:
        super().__init__(config)
        del self.rotary_emb
        for index, layer in enumerate(self.layers):
            layer.self_attn = AlibiAttention(config, index)
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
    ) -> BaseModelOutputWithPast:
        """As LlamaModel's. ``attention_mask`` [B, K] may also hold the numbers of packed segments."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        bias = self._bias(hidden, attention_mask, position_ids, past)
        collected = [hidden] if kwargs.pop("output_hidden_states", None) else None
        kwargs.pop("return_dict", None)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=bias, past_key_values=past_key_values, use_cache=use_cache, **kwargs)
            if collected is not None:
                collected.append(hidden)
        hidden = self.norm(hidden)
        if collected is not None:
            collected[-1] = hidden
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(collected) if collected is not None else None,
        )

    def _bias(self, hidden: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, past: int) -> Bias:
        """The bias of a pass over hidden [B, Q, D] after ``past`` cached positions."""
        rows, num_queries = hidden.shape[:2]
        num_keys, heads, device = past + num_queries, self.config.num_attention_heads, hidden.device
        allowed = visible(attention_mask, position_ids, rows=rows, num_queries=num_queries, past=past)
        slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float32, device=device)
        eager = self.config._attn_implementation == "eager"
        if eager or num_queries == 1 or heads * num_queries * num_keys <= self.most_added:
            query = torch.arange(past, num_keys, device=device)[:, None]
            key = torch.arange(num_keys, device=device)[None]
            added = slopes[:, None, None] * (key - query)
            mask = (key <= query) if allowed is None else allowed
            # The smallest number and not minus infinity: a row that sees nothing would become NaN.
            added = torch.where(mask, added, torch.finfo(hidden.dtype).min).to(hidden.dtype)
            return Bias(added if added.dim() == 4 else added[None], None, None, None)
        if allowed is None and past:
            # is_causal would line up the first query with the first key.
            ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
            allowed = ones.tril(past)[None, None].expand(rows, 1, -1, -1)
        return Bias(None, allowed, slopes, _key_columns(num_keys, device))


def _query_columns(scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """[H, 1, 8] from slope / scale, float32 [H]: (hi, lo, 256 hi, 256 lo, 0 ...), hi + lo being the number in two
    parts that ``dtype`` holds. With key columns (b, b, a, a) of position 256 a + b the products add up to slope * j."""
    high = scaled.to(dtype)
    low = (scaled - high.float()).to(dtype)
    columns = torch.stack([high, low, 256 * high, 256 * low], dim=-1)
    return functional.pad(columns, (0, _COLUMNS - 4))[:, None]


def _key_columns(num_keys: int, device: torch.device) -> Tensor:
    """[K, 8]: (b, b, a, a, 0 ...) for position 256 a + b; whole numbers up to 256, which bfloat16 holds."""
    position = torch.arange(num_keys, device=device)
    b, a = (position % 256).float(), (position // 256).float()
    return functional.pad(torch.stack([b, b, a, a], dim=-1), (0, _COLUMNS - 4))


class AlibiLlamaForCausalLM(LlamaForCausalLM):
    """Baichuan-13B and Baichuan2-13B. Plain transformers loads it after ``own_types.register()``."""

    config_class = AlibiLlamaConfig
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False

    def __init__(self, config: AlibiLlamaConfig) -> None:
        super().__init__(config)
        self.model = AlibiLlamaModel(config)
        if getattr(config, "divide_rows", False):
            divide_in_forward(self.lm_head)
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Take ``new_embeddings`` as the output layer, which divides its rows where the config says so."""
        if getattr(self.config, "divide_rows", False):
            divide_in_forward(new_embeddings)
        self.lm_head = new_embeddings


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of AlibiLlamaConfig."""
    fields.must_be("z_loss_weight", 0, "no release was trained with this term")
    return llama_settings(
        fields,
        max_position_embeddings=fields("model_max_length", "max_position_embeddings", default=4096),
        divide_rows=False,
    )


def second_settings(fields: Fields) -> dict[str, Any]:
    """The same, marked as a family whose output matrix is normalised."""
    return settings(fields) | {"normalised_head": True}


_SHARED: dict[str, Any] = {
    "model_type": "baichuan",
    "native": AlibiLlamaForCausalLM,
    "modules": BAICHUAN_MODULES,
    "rows": attention_rows,
    "dropped": (".alibi_mask", "future_mask"),
}

BAICHUAN_13B = Family(name="baichuan-13b", title="Baichuan-13B", settings=settings, **_SHARED)
BAICHUAN2_13B = Family(
    name="baichuan2-13b", title="Baichuan2-13B", settings=second_settings, normalised_head=True, **_SHARED
)
