"""Model types of our own, for what transformers has no class for: the ALiBi models, a normalised head in training,
and Qwen-VL.

``register`` makes ``AutoConfig`` and ``AutoModelForCausalLM`` of transformers know them. It is called by those who want
that and never at import; the package itself looks them up here.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from hanlin.model.native.baichuan13b import AlibiLlamaConfig, AlibiLlamaForCausalLM
from hanlin.model.native.head import NormalisedLlamaConfig, NormalisedLlamaForCausalLM
from hanlin.model.native.qwen_vl import QwenVLConfig, QwenVLForCausalLM

OWN_TYPES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    config.model_type: (config, model)
    for config, model in (
        (AlibiLlamaConfig, AlibiLlamaForCausalLM),
        (NormalisedLlamaConfig, NormalisedLlamaForCausalLM),
        (QwenVLConfig, QwenVLForCausalLM),
    )
}


def register() -> None:
    """Teach the Auto classes of transformers the model types of this package; a second call changes nothing."""
    for name, (config, model) in OWN_TYPES.items():
        AutoConfig.register(name, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
