"""Qwen v1 (7B, 14B, 1.8B, 72B): the same function as Qwen2 up to the trained length, and always in training mode.

The first release spelled several fields differently; both spellings are read. ``intermediate_size`` counted gate and up
together. ``w2`` is the branch that goes through SiLU, ``w1`` the other one.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2ForCausalLM

from hanlin.errors import UserError
from hanlin.model.native.family import Family, Fields, attention_rows

END_OF_TEXT, IM_START, IM_END = 151643, 151644, 151645
"""Ids of the special tokens; the vocabulary before them is fixed."""


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of Qwen2Config, and the three that the long-context rules need (``qwen_long``)."""
    fields.must_be("no_bias", True, "Qwen2 has no biases outside q, k and v")
    fields.must_be("rotary_pct", 1.0, "Qwen2 turns whole heads")
    fields.must_be("scale_attn_weights", True, "Qwen2 divides by the square root of the head size")
    fields.must_be("tie_word_embeddings", False, "Qwen v1 has a head of its own")
    hidden, heads = fields("hidden_size", "n_embd"), fields("num_attention_heads", "n_head")
    channels = fields("kv_channels", default=hidden // heads)
    if channels * heads != hidden:
        raise UserError(
            fields.file,
            f"kv_channels is {channels}: {heads} heads of it are not hidden_size {hidden}",
            expected=str(hidden // heads),
        )
    rows = fields("padded_vocab_size", "vocab_size")
    return {
        "vocab_size": rows,
        "hidden_size": hidden,
        "num_hidden_layers": fields("num_hidden_layers", "n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": fields("intermediate_size", "ffn_hidden_size") // 2,
        "rms_norm_eps": fields("layer_norm_epsilon", default=1e-6),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields("rotary_emb_base", default=10000))},
        "max_position_embeddings": fields("max_position_embeddings", "n_positions", default=8192),
        "initializer_range": fields("initializer_range", default=0.02),
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        # The old embedding had no padding row: with one, that row would get no gradient.
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": END_OF_TEXT if rows > END_OF_TEXT else None,
        "seq_length": fields("seq_length", default=2048),
        "use_dynamic_ntk": bool(fields("use_dynamic_ntk", default=False)),
        "use_logn_attn": bool(fields("use_logn_attn", default=False)),
    }


def stop_ids(fields: Fields) -> tuple[int, ...]:
    """The chat models' turn marks; their generation_config.json names END_OF_TEXT alone, which never stops them."""
    chat = fields("chat_format", default="raw") != "raw"
    return (IM_END, IM_START, END_OF_TEXT) if chat else (END_OF_TEXT,)


QWEN = Family(
    name="qwen",
    title="Qwen v1",
    model_type="qwen",
    native=Qwen2ForCausalLM,
    settings=settings,
    modules={
        "transformer.wte": "model.embed_tokens",
        "transformer.h.{}.ln_1": "model.layers.{}.input_layernorm",
        "transformer.h.{}.ln_2": "model.layers.{}.post_attention_layernorm",
        "transformer.h.{}.attn.c_attn": (
            "model.layers.{}.self_attn.q_proj",
            "model.layers.{}.self_attn.k_proj",
            "model.layers.{}.self_attn.v_proj",
        ),
        "transformer.h.{}.attn.c_proj": "model.layers.{}.self_attn.o_proj",
        "transformer.h.{}.mlp.w2": "model.layers.{}.mlp.gate_proj",
        "transformer.h.{}.mlp.w1": "model.layers.{}.mlp.up_proj",
        "transformer.h.{}.mlp.c_proj": "model.layers.{}.mlp.down_proj",
        "transformer.ln_f": "model.norm",
    },
    rows=attention_rows,
    dropped=(".attn.masked_bias", "logn_tensor", "rotary_emb.inv_freq"),
    stop_ids=stop_ids,
)
