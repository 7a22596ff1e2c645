"""XVERSE (7B, 13B, 65B): Llama under another name."""

from __future__ import annotations

from typing import Any

from transformers import LlamaForCausalLM

from hanlin.model.native.family import Family, Fields
from hanlin.model.native.llama_shaped import LLAMA_MODULES, llama_settings


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of LlamaConfig; vocabulary, context and special ids differ between releases and are the checkpoint's."""
    fields.must_be_absent("rope_scaling", "the code of 2023 had no scaling of positions")
    return llama_settings(fields, max_position_embeddings=fields("max_position_embeddings"))


XVERSE = Family(
    name="xverse",
    title="XVERSE",
    model_type="xverse",
    native=LlamaForCausalLM,
    settings=settings,
    modules=LLAMA_MODULES,
)
