"""InternLM v1 (7B, 20B): Llama with biases in the attention, its output projection included, where config says so."""

from __future__ import annotations

from typing import Any

from transformers import LlamaForCausalLM

from hanlin.errors import UserError
from hanlin.model.native.family import Family, Fields
from hanlin.model.native.llama_shaped import LLAMA_MODULES, llama_settings

END_OF_ANSWER = 103028
"""Id of <eoa>, which ends the answers of the chat models."""


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of LlamaConfig. A later revision names its rotary settings in ``rotary``."""
    rotary = fields("rotary", default={})
    kind, base = rotary.get("type") or "origin", float(rotary.get("base") or 10000)
    if kind == "dynamic":
        # With factor 1.0 the formula of transformers is the old one: base * (f * N / max - (f - 1)) ** (d / (d - 2)).
        rope = {"rope_type": "dynamic", "factor": float(rotary.get("scaling_factor") or 1.0), "rope_theta": base}
    elif kind == "origin":
        rope = {"rope_type": "default", "rope_theta": base}
    else:
        raise UserError(fields.file, f"rotary.type is {kind!r}", expected="'origin' or 'dynamic'")
    return llama_settings(
        fields,
        attention_bias=bool(fields("bias", default=True)),
        max_position_embeddings=fields("max_position_embeddings"),
        rope_parameters=rope,
    )


INTERNLM = Family(
    name="internlm",
    title="InternLM v1",
    model_type="internlm",
    native=LlamaForCausalLM,
    settings=settings,
    modules=LLAMA_MODULES,
    stop_ids=lambda fields: (END_OF_ANSWER,),
)
