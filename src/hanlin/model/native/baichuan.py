"""Baichuan-7B and Baichuan2-7B: Llama with q, k and v in one matrix; the second generation divides its output rows."""

from __future__ import annotations

from typing import Any

from transformers import LlamaForCausalLM

from hanlin.model.native.family import Family, Fields, attention_rows
from hanlin.model.native.llama_shaped import LLAMA_MODULES, llama_settings

BAICHUAN_MODULES = LLAMA_MODULES | {
    "model.layers.{}.self_attn.W_pack": (
        "model.layers.{}.self_attn.q_proj",
        "model.layers.{}.self_attn.k_proj",
        "model.layers.{}.self_attn.v_proj",
    ),
}


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of LlamaConfig."""
    fields.must_be("z_loss_weight", 0, "no release was trained with this term")
    return llama_settings(
        fields, max_position_embeddings=fields("max_position_embeddings", "model_max_length", default=4096)
    )


def second_settings(fields: Fields) -> dict[str, Any]:
    """The same, marked as a family whose output matrix is normalised."""
    return settings(fields) | {"normalised_head": True}


_SHARED: dict[str, Any] = {
    "model_type": "baichuan",
    "native": LlamaForCausalLM,
    "modules": BAICHUAN_MODULES,
    "rows": attention_rows,
}

BAICHUAN_7B = Family(name="baichuan-7b", title="Baichuan-7B", settings=settings, **_SHARED)
BAICHUAN2_7B = Family(
    name="baichuan2-7b", title="Baichuan2-7B", settings=second_settings, normalised_head=True, **_SHARED
)
