"""ChatGLM2-6B, ChatGLM3-6B, their 32k variants and the first GLM-4: one layout, and the function of transformers' Glm.

``rope_ratio`` has two meanings, which the config does not tell apart: ChatGLM2-32k divides the positions by it,
ChatGLM3-32k and GLM-4 multiply the base of the rotary frequencies. ``recognise`` decides which family is meant.
"""

from __future__ import annotations

from typing import Any

from transformers import GlmForCausalLM

from hanlin.model.native.family import Family, Fields, attention_rows

_BASE = 10000.0
"""Base of the rotary frequencies."""


def _settings(fields: Fields) -> dict[str, Any]:
    fields.must_be("add_bias_linear", False, "Glm has no biases outside q, k and v")
    fields.must_be("rmsnorm", True, "Glm has no other norm")
    fields.must_be("apply_residual_connection_post_layernorm", False, "Glm adds the residual before the norm")
    fields.must_be("post_layer_norm", True, "Glm has a norm after the last layer")
    fields.must_be("multi_query_attention", True, "the fused rows are then interleaved per head")
    fields.must_be("original_rope", True, "another rotary form than the released models have")
    fields.must_be("tie_word_embeddings", False, "the released models have a head of their own")
    fields.must_be_absent("pre_seq_len", "prefix tuning is not part of Glm")
    fields.must_be_absent("quantization_bit", "name the checkpoint with weights in 16 bits")
    fields.must_be_absent("vision_config", "GLM-4V has a second network for images, which is not here")
    pad, end = fields("pad_token_id", default=0), fields("eos_token_id", default=2)
    return {
        "vocab_size": fields("padded_vocab_size"),
        "hidden_size": fields("hidden_size"),
        "num_hidden_layers": fields("num_layers"),
        "intermediate_size": fields("ffn_hidden_size"),
        "num_attention_heads": fields("num_attention_heads"),
        "num_key_value_heads": fields("multi_query_group_num"),
        "head_dim": fields("kv_channels"),
        "rms_norm_eps": fields("layernorm_epsilon"),
        "attention_bias": bool(fields("add_qkv_bias", default=False)),
        "attention_dropout": 0.0,
        "max_position_embeddings": fields("seq_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        # The old embedding had no row without a gradient: GLM-4 pads with what ends documents, which is learned.
        "pad_token_id": None if pad in (end if isinstance(end, list) else [end]) else pad,
        "eos_token_id": end,
        "bos_token_id": None,
    }


def positions_divided(fields: Fields) -> dict[str, Any]:
    """Fields of GlmConfig for ChatGLM2: ``rope_ratio`` divides the positions."""
    ratio = float(fields("rope_ratio", default=1.0))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _BASE, "partial_rotary_factor": 0.5}
    if ratio != 1.0:
        rope |= {"rope_type": "linear", "factor": ratio}
    return _settings(fields) | {"rope_parameters": rope}


def base_multiplied(fields: Fields) -> dict[str, Any]:
    """Fields of GlmConfig for ChatGLM3 and GLM-4: ``rope_ratio`` multiplies the base."""
    theta = _BASE * float(fields("rope_ratio", default=1.0))
    rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
    return _settings(fields) | {"rope_parameters": rope}


_LAYOUT: dict[str, Any] = {
    "model_type": "chatglm",
    "native": GlmForCausalLM,
    "modules": {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.layers.{}.input_layernorm": "model.layers.{}.input_layernorm",
        "transformer.encoder.layers.{}.post_attention_layernorm": "model.layers.{}.post_attention_layernorm",
        "transformer.encoder.layers.{}.self_attention.query_key_value": (
            "model.layers.{}.self_attn.q_proj",
            "model.layers.{}.self_attn.k_proj",
            "model.layers.{}.self_attn.v_proj",
        ),
        "transformer.encoder.layers.{}.self_attention.dense": "model.layers.{}.self_attn.o_proj",
        "transformer.encoder.layers.{}.mlp.dense_h_to_4h": "model.layers.{}.mlp.gate_up_proj",
        "transformer.encoder.layers.{}.mlp.dense_4h_to_h": "model.layers.{}.mlp.down_proj",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
    },
    "rows": attention_rows,
    "dropped": ("rotary_pos_emb.inv_freq",),
}

CHATGLM2 = Family(name="chatglm2", title="ChatGLM2", settings=positions_divided, **_LAYOUT)
CHATGLM3 = Family(name="chatglm3", title="ChatGLM3", settings=base_multiplied, **_LAYOUT)
