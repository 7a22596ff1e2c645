"""Which family of 2023 a checkpoint belongs to, from its config.json and the names of its tensors alone.

A wrong guess is silent and total (rotary positions in an ALiBi model still write text), so where the facts contradict
one another or do not decide, the error names them, and ``hanlin_family`` in config.json decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hanlin.errors import UserError, did_you_mean
from hanlin.model.native.baichuan import BAICHUAN2_7B, BAICHUAN_7B
from hanlin.model.native.baichuan13b import BAICHUAN2_13B, BAICHUAN_13B
from hanlin.model.native.chatglm import CHATGLM2, CHATGLM3
from hanlin.model.native.family import Family, Fields
from hanlin.model.native.internlm import INTERNLM
from hanlin.model.native.internlm2 import INTERNLM2
from hanlin.model.native.qwen import QWEN
from hanlin.model.native.qwen_vl import QWEN_VL
from hanlin.model.native.xverse import XVERSE
from hanlin.model.weights import open_weights

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        QWEN, QWEN_VL, BAICHUAN_7B, BAICHUAN2_7B, BAICHUAN_13B, BAICHUAN2_13B, CHATGLM2, CHATGLM3, INTERNLM,
        INTERNLM2, XVERSE,
    )
}  # fmt: skip
"""Every family, by name."""

FAMILY_FIELD = "hanlin_family"
"""Field of a config.json that names the family: written into native configs, and read first in foreign ones."""

MODEL_TYPES = frozenset(family.model_type for family in FAMILIES.values())

_LIKE_LLAMA = "its settings and weights are Llama's where its code adds nothing: model_type 'llama' could serve"
_COULD_SERVE = {
    "yi": _LIKE_LLAMA,
    "deepseek": "transformers' deepseek_v2 is a later architecture; no native family is proved equal to it",
    "aquila": _LIKE_LLAMA,
    "orion": "Llama with LayerNorm has no class in transformers",
    "phi-msft": "model_type 'phi' in its present release could serve",
    "mixformer-sequential": "model_type 'phi' in its present release could serve",
    "refinedweb": "model_type 'falcon' could serve",
    "refinedwebmodel": "model_type 'falcon' could serve",
    "stablelm_epoch": "model_type 'stablelm' could serve",
    "minicpm": "no native family is proved equal to it (it scales embeddings and residuals)",
}
"""What could take the place of code that is not run, by model type in lower case."""


def recognise(directory: Path, values: Mapping[str, Any], *, variant: str | None = None) -> Family | None:
    """The family of the checkpoint in ``directory`` whose config.json holds ``values``; None: not of these families.

    ``variant`` (else ``hanlin_family`` in the config) decides in place of the facts. Raises UserError for a member of
    these families that cannot be expressed, and where the facts do not decide.
    """
    model_type, file = values.get("model_type"), directory / "config.json"
    if model_type not in MODEL_TYPES:
        return None
    named = variant or values.get(FAMILY_FIELD)
    if named is not None:
        fitting = _families_of(model_type)
        if named not in fitting:
            raise UserError(
                file,
                f"{FAMILY_FIELD} is {named!r}" if variant is None else f"the variant {named!r} is asked for",
                expected=f"one of {', '.join(fitting)} for model_type {model_type!r}",
                mend=did_you_mean(str(named), fitting),
            )
    _refuse_quantised(directory, values)
    if model_type == "qwen" and values.get("audio"):
        raise UserError(
            file,
            "audio is set: Qwen-Audio has a second network for it, which is not here",
            expected="Qwen v1 or Qwen-VL",
        )
    if model_type == "chatglm" and not (values.get("padded_vocab_size") and "multi_query_attention" in values):
        old = next((name for name in ("position_encoding_2d", "inner_hidden_size") if name in values), None)
        raise UserError(
            file,
            f"{old} is set: ChatGLM-6B of the first generation has positions of its own"
            if old
            else "padded_vocab_size or multi_query_attention is missing",
            expected="ChatGLM2 or later",
            mend="use ChatGLM2-6B or ChatGLM3-6B",
        )
    if named is not None:
        return FAMILIES[str(named)]
    if model_type == "baichuan":
        return _baichuan(directory, values)
    if model_type == "chatglm":
        return _chatglm(directory, values)
    if model_type == "qwen":
        return QWEN_VL if values.get("visual") else QWEN
    return next(family for family in FAMILIES.values() if family.model_type == model_type)


def settle_variant(
    directory: Path,
    values: Mapping[str, Any],
    asked: str | None,
    *,
    recorded: str | None = None,
    family: str | None = None,
) -> str | None:
    """The ``variant`` to read the checkpoint in ``directory`` as; None where its config.json decides.

    ``asked`` is what the user named, ``recorded`` what an adapter was trained on, ``family`` that of the catalog's
    entry, which counts only where the facts do not decide. Raises UserError when the checkpoint cannot be what was
    asked for; the others are passed over then.
    """
    model_type = values.get("model_type")
    fitting = _families_of(model_type)
    if asked is not None:
        if asked not in FAMILIES:
            raise UserError(
                "--variant",
                f"is {asked!r}",
                expected=f"one of {', '.join(fitting or FAMILIES)}",
                mend=did_you_mean(asked, fitting or FAMILIES),
            )
        if asked not in fitting:
            raise UserError(
                "--variant",
                f"is {asked!r}, and {directory} has model_type {model_type!r}",
                expected=f"one of {', '.join(fitting)}" if fitting else "",
                mend=did_you_mean(asked, fitting) if fitting else "leave it out: this model needs none",
            )
        return asked
    if recorded in fitting:
        return recorded
    if family not in fitting:
        return None
    try:
        recognise(directory, values)
    except UserError:
        return family
    return None


def native_config(directory: Path, values: Mapping[str, Any], family: Family) -> PretrainedConfig:
    """The native config of a checkpoint of ``family``. Raises UserError for a field that cannot be expressed."""
    fields = Fields(values, directory / "config.json")
    config: PretrainedConfig = family.native.config_class(
        **family.settings(fields), architectures=[family.native.__name__]
    )
    setattr(config, FAMILY_FIELD, family.name)
    dtype = values.get("torch_dtype", values.get("dtype"))
    if dtype in ("float32", "float16", "bfloat16"):
        config.dtype = dtype
    return config


def refuse_code(directory: Path | str, values: Mapping[str, Any], place: str) -> None:
    """Refuse a checkpoint whose function is defined by Python code of its own. Raises UserError.

    Code that is the published copy of a class of transformers, by the name of the class, is not needed.
    """
    auto_map = values.get("auto_map")
    if not auto_map:
        return
    names = auto_map if isinstance(auto_map, dict) else {"AutoModelForCausalLM": auto_map}
    model_type = str(values.get("model_type"))
    code = str(names.get("AutoModelForCausalLM") or next(iter(names.values())))
    own_class = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if own_class is not None and code.rsplit(".", 1)[-1] == own_class:
        return
    hint = _COULD_SERVE.get(model_type.lower(), "")
    if not hint and model_type in CONFIG_MAPPING:
        hint = f"transformers' own {model_type} could serve: remove auto_map from config.json if the weights are its"
    raise UserError(
        place,
        f"{directory} runs Python code of its own (auto_map names {code}), which is never executed",
        expected="an architecture that transformers has itself, or one of the families " + ", ".join(FAMILIES),
        mend=hint,
    )


def _refuse_quantised(directory: Path, values: Mapping[str, Any]) -> None:
    settings = values.get("quantization_config")
    found = "quantization_config" if settings else ""
    if not found and (directory / "quantize_config.json").is_file():
        found = "quantize_config.json"
    if found:
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else "gptq"
        raise UserError(
            directory / "config.json",
            f"{found} is set: the weights are quantised ({method}), and no reader of that form is here",
            expected="weights in 16 or 32 bits",
            mend="name the checkpoint that it was quantised from",
        )


def _baichuan(directory: Path, values: Mapping[str, Any]) -> Family:
    """7B (rotary) or 13B (ALiBi), by the tensors and by the name of the length; generation by the vocabulary."""
    file = directory / "config.json"
    tables = any(name.endswith("rotary_emb.inv_freq") for name in _tensor_names(directory))
    rotary, alibi = "max_position_embeddings" in values, "model_max_length" in values
    large = values.get("hidden_size") == 5120 and values.get("num_attention_heads") == 40
    facts = (
        f"max_position_embeddings {values.get('max_position_embeddings')}, "
        f"model_max_length {values.get('model_max_length')}, rotary tables {'stored' if tables else 'not stored'}, "
        f"hidden_size {values.get('hidden_size')}"
    )
    if (large and rotary and not tables) or not (tables or rotary or alibi):
        raise UserError(
            file,
            f"does not tell rotary positions (7B) from ALiBi (13B): {facts}",
            mend=_how_to_name("baichuan"),
        )
    small = tables or rotary
    rows = values.get("vocab_size")
    if rows not in (64000, 125696):
        raise UserError(
            file,
            f"vocab_size is {rows}, which does not tell Baichuan (64000) from Baichuan2 (125696, normalised head)",
            mend=f"{_how_to_name('baichuan')} ({facts})",
        )
    if rows == 64000:
        return BAICHUAN_7B if small else BAICHUAN_13B
    return BAICHUAN2_7B if small else BAICHUAN2_13B


_GLM4_ROWS = 151552
"""``padded_vocab_size`` of GLM-4, which no earlier model has."""


def _chatglm(directory: Path, values: Mapping[str, Any]) -> Family:
    """The two meanings of ``rope_ratio``: by GLM-4's vocabulary, the published names, or the code, read as text."""
    if values.get("rope_ratio") in (None, 1, 1.0):
        return CHATGLM2  # one function
    if values.get("padded_vocab_size") == _GLM4_ROWS:
        return CHATGLM3
    names = " ".join((*directory.resolve().parts[-3:], str(values.get("_name_or_path", "")))).lower()
    if re.search(r"chatglm-?2", names):
        return CHATGLM2
    if re.search(r"chatglm-?3|glm-?4", names):
        return CHATGLM3
    code = directory / "modeling_chatglm.py"
    text = code.read_text(encoding="utf-8", errors="replace") if code.is_file() else ""
    if re.search(r"base\s*\*\s*(self\.)?rope_ratio", text):
        return CHATGLM3
    if re.search(r"/\s*(self\.)?rope_ratio", text):
        return CHATGLM2
    raise UserError(
        directory / "config.json",
        f"rope_ratio is {values['rope_ratio']}: ChatGLM2 divides positions by it, ChatGLM3 multiplies the base",
        mend=_how_to_name("chatglm"),
    )


def _how_to_name(model_type: str) -> str:
    names = " or ".join(_families_of(model_type))
    return f'name it: --variant {names}; or write it into config.json as "{FAMILY_FIELD}"'


def _families_of(model_type: object) -> list[str]:
    return [family.name for family in FAMILIES.values() if family.model_type == model_type]


def _tensor_names(directory: Path) -> list[str]:
    """Names in the headers of the weights; none where the weights are not there or not whole, which is told later."""
    try:
        return list(open_weights(directory, "--model").tensors)
    except UserError:
        return []
