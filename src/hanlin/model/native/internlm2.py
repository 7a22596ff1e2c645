"""InternLM2 and InternLM2.5: Llama under names of its own, with q, k and v fused group by group.

The fused rows hold, for each key-value head in turn, the query heads that share it, then its key, then its value.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaForCausalLM, PretrainedConfig

from hanlin.errors import UserError
from hanlin.model.native.family import Family, Fields, attention_rows
from hanlin.model.native.llama_shaped import llama_settings

IM_END = 92542
"""Id of <|im_end|>, which ends the answers of the chat models; the first of them did not name it."""


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of LlamaConfig.

    Past ``max_position_embeddings`` N tokens of ``dynamic`` turn by the base
    ``theta * (factor * N / max - (factor - 1)) ** (d / (d - 2))``, here as in transformers.
    """
    theta = float(fields("rope_theta", default=10000))
    scaling = fields("rope_scaling", default={})
    if not isinstance(scaling, dict):
        raise UserError(fields.file, f"rope_scaling is {scaling!r}", expected="an object, or null")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "linear", "dynamic"):
        raise UserError(fields.file, f"rope_scaling.type is {kind!r}", expected="'linear' or 'dynamic'")
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        factor = scaling.get("factor")
        if not isinstance(factor, int | float) or isinstance(factor, bool) or factor < 1:
            raise UserError(fields.file, f"rope_scaling.factor is {factor!r}", expected="a number of 1 or more")
        rope["factor"] = float(factor)
    heads = fields("num_attention_heads")
    groups = fields("num_key_value_heads", default=heads)
    if not groups or heads % groups:
        raise UserError(
            fields.file,
            f"num_key_value_heads is {groups}: {heads} query heads cannot be shared evenly",
            expected="a divisor of num_attention_heads",
        )
    return llama_settings(
        fields,
        attention_bias=bool(fields("bias", default=True)),
        max_position_embeddings=fields("max_position_embeddings"),
        rope_parameters=rope,
    )


def key_value_heads(config: PretrainedConfig) -> int:
    """How many times q, k and v take turns in ``wqkv``."""
    return int(config.num_key_value_heads)


INTERNLM2 = Family(
    name="internlm2",
    title="InternLM2",
    model_type="internlm2",
    native=LlamaForCausalLM,
    settings=settings,
    modules={
        "model.tok_embeddings": "model.embed_tokens",
        "model.layers.{}.attention_norm": "model.layers.{}.input_layernorm",
        "model.layers.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
        "model.layers.{}.attention.wqkv": (
            "model.layers.{}.self_attn.q_proj",
            "model.layers.{}.self_attn.k_proj",
            "model.layers.{}.self_attn.v_proj",
        ),
        "model.layers.{}.attention.wo": "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.feed_forward.w1": "model.layers.{}.mlp.gate_proj",
        "model.layers.{}.feed_forward.w3": "model.layers.{}.mlp.up_proj",
        "model.layers.{}.feed_forward.w2": "model.layers.{}.mlp.down_proj",
        "output": "lm_head",
    },
    rows=attention_rows,
    turns=key_value_heads,
    dropped=(".rotary_emb.inv_freq", ".rope.inv_freq"),
    stop_ids=lambda fields: (IM_END,),
)
