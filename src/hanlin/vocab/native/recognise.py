"""What a folder holds, told by its files and its configuration; the Python files in it are never imported."""

from __future__ import annotations

from dataclasses import dataclass

import transformers

from hanlin.errors import UserError
from hanlin.vocab.native.description import Description

QWEN_FILE = "qwen.tiktoken"
MODEL_FILE = "tokenizer.model"
FAST_FILE = "tokenizer.json"
GLM4_ROWS = 151552
"""``padded_vocab_size`` of GLM-4, whose model type is ChatGLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the tokenizer of one family is recognised and what it does beside its vocabulary file."""

    name: str
    classes: tuple[str, ...] = ()
    """Names in ``tokenizer_class`` or at the end of ``auto_map.AutoTokenizer``."""
    model_type: str | None = None
    """``model_type`` of config.json, asked where no class is named."""
    file: str = MODEL_FILE
    """The vocabulary file."""
    add_bos: bool = True
    """Whether a text starts with BOS where ``add_bos_token`` says nothing."""


QWEN = Family(name="Qwen", classes=("QWenTokenizer",), model_type="qwen", file=QWEN_FILE, add_bos=False)
CHATGLM = Family(name="ChatGLM", classes=("ChatGLMTokenizer",), model_type="chatglm", add_bos=False)
BAICHUAN = Family(name="Baichuan", classes=("BaichuanTokenizer", "BaiChuanTokenizer"), model_type="baichuan")
INTERNLM = Family(name="InternLM", classes=("InternLMTokenizer",), model_type="internlm")
INTERNLM2 = Family(name="InternLM2", classes=("InternLM2Tokenizer", "InternLM2TokenizerFast"), model_type="internlm2")
GLM4 = Family(name="GLM-4", classes=("ChatGLM4Tokenizer",), add_bos=False)
"""The vocabulary of tiktoken, in a file that is called as SentencePiece's are."""
POLYLM = Family(name="PolyLM")
"""A GPT-2 model with a SentencePiece vocabulary; its class is LLaMA's slow one, which transformers no longer has."""
OTHER = Family(name="SentencePiece")
"""A class that nobody knows, with a SentencePiece model, which states its own rules."""
FAST = Family(name="tokenizer.json", file=FAST_FILE)
"""A class that nobody knows, with tokenizer.json."""

NAMED = (QWEN, CHATGLM, BAICHUAN, INTERNLM, INTERNLM2, GLM4)


def recognise(described: Description, place: str) -> Family | None:
    """The family to be built here, or None where transformers loads the folder by itself.

    Raises UserError at ``place`` for a tokenizer that only its own code could load.
    """
    name = described.class_name
    family = next((family for family in NAMED if name in family.classes), None)
    if family is None and name is None:
        family = _by_model(described)
    if family is INTERNLM and described.model.get("model_type") == INTERNLM2.model_type:
        family = INTERNLM2  # the first release kept the name of the class
    if family is CHATGLM and described.model.get("padded_vocab_size") == GLM4_ROWS:
        family = GLM4
    if family is CHATGLM and (described.has("ice_text.model") or "position_encoding_2d" in described.model):
        raise UserError(place, f"{described.folder} holds the first ChatGLM-6B", expected="ChatGLM2 or ChatGLM3")
    if family is not None:
        # tokenizer.json was written by somebody who had converted the vocabulary; without the latter it must do.
        if described.has(FAST_FILE) and not described.has(family.file):
            return FAST
        return family
    if name is None and described.remote_code is None:
        return None
    if name is not None and _in_transformers(name):
        is_polylm = described.model.get("model_type") == "gpt2" and name.startswith("LlamaTokenizer")
        return POLYLM if is_polylm and described.has(MODEL_FILE) and not described.has(FAST_FILE) else None
    if described.has(FAST_FILE):
        return FAST if described.remote_code else None
    if described.has(MODEL_FILE):
        return OTHER
    raise UserError(
        place,
        f"the tokenizer in {described.folder} is a {name}, which only code from the checkpoint can load, "
        "and such code is never run",
        expected="tokenizer.json, or a vocabulary of Qwen, ChatGLM, GLM-4, Baichuan, InternLM or SentencePiece",
    )


def _by_model(described: Description) -> Family | None:
    """Family of a folder that names no class: by the vocabulary's name or the model's type."""
    if described.has(FAST_FILE) and described.remote_code is None:
        return None
    if described.has(QWEN_FILE):
        return QWEN
    kind = described.model.get("model_type")
    return next((family for family in NAMED if kind is not None and family.model_type == kind), None)


def _in_transformers(name: str) -> bool:
    return hasattr(transformers, name) or hasattr(transformers, name.removesuffix("Fast"))
