"""InternLM v1 and XVERSE: Llama under another name, with the same tensor names.

Their own code must not be used: on transformers 5 it loads without a complaint and returns NaN, because its rotary
tables are buffers that nothing fills. PolyLM (GPT-2), SeqGPT (Bloom), LLaMA-2, OpenBuddy, Ziya2 and Mistral are native
as they were published and need no entry.
"""

from __future__ import annotations

from typing import Any

from hanlin.model.native.family import Fields

LLAMA_MODULES = {
    name: name
    for name in (
        "model.embed_tokens",
        *(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkvo"),
        *(f"model.layers.{{}}.mlp.{part}_proj" for part in ("gate", "up", "down")),
    )
}
"""Modules that have Llama's names already."""


def llama_settings(fields: Fields, **own: Any) -> dict[str, Any]:
    """Fields of LlamaConfig that the Llama-shaped families of 2023 spell as Llama does; ``own`` are the others."""
    fields.must_be("hidden_act", "silu", "the native architecture is built on SiLU")
    fields.must_be("tie_word_embeddings", False, "the released models have a head of their own")
    heads, rows = fields("num_attention_heads"), fields("vocab_size")
    pad = fields("pad_token_id", default=None)
    return {
        "vocab_size": rows,
        "hidden_size": fields("hidden_size"),
        "intermediate_size": fields("intermediate_size"),
        "num_hidden_layers": fields("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields("num_key_value_heads", default=heads),
        "rms_norm_eps": fields("rms_norm_eps"),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields("rope_theta", default=10000))},
        "initializer_range": fields("initializer_range", default=0.02),
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        # The row of this id gets no gradient, as it did; an id without a row (-1) meant that there is none.
        "pad_token_id": pad if pad is not None and 0 <= pad < rows else None,
        "bos_token_id": fields("bos_token_id", default=1),
        "eos_token_id": fields("eos_token_id", default=2),
        **own,
    }
