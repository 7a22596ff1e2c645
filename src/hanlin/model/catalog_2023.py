"""The models of 2023: the 47 ids of the older tool in its order, and the five that followed within the month.

Hub ids, templates, LoRA targets and forced dtypes as published (specification 1.2 and appendix A). ``template=None`` of
a base model means ``default`` where its tokenizer brings no chat template, as the older tool had it. What the older
tool worked around in its loaders (specification 1.3) has no place here: the families are loaded natively.
"""

from __future__ import annotations

from typing import Any

from hanlin.model.entry import NOT_NATIVE, QKV_GROUP, Entry

_QWEN: dict[str, Any] = {"family": "qwen", "qkv": ("c_attn",)}
_QWEN_VL: dict[str, Any] = {"family": "qwen-vl", "qkv": ("c_attn",), "notes": "sees pictures: <img>FILE</img>"}
_BAICHUAN_7B: dict[str, Any] = {"family": "baichuan-7b", "qkv": ("W_pack",)}
_BAICHUAN_13B: dict[str, Any] = {"family": "baichuan-13b", "qkv": ("W_pack",)}
_BAICHUAN2_7B: dict[str, Any] = {"family": "baichuan2-7b", "qkv": ("W_pack",)}
_BAICHUAN2_13B: dict[str, Any] = {"family": "baichuan2-13b", "qkv": ("W_pack",)}
_CHATGLM2: dict[str, Any] = {"family": "chatglm2", "qkv": ("query_key_value",)}
_CHATGLM3: dict[str, Any] = {"family": "chatglm3", "qkv": ("query_key_value",)}
_LLAMA: dict[str, Any] = {"family": "llama"}
_LLAMA2: dict[str, Any] = {"family": "llama", "ignore_file_pattern": (r".+\.bin$",)}
_INTERNLM: dict[str, Any] = {"family": "internlm"}
_XVERSE: dict[str, Any] = {"family": "xverse"}
_MISTRAL: dict[str, Any] = {"family": "mistral"}
_SKYWORK: dict[str, Any] = {"family": "skywork", "refused": NOT_NATIVE}
_GPTQ4: dict[str, Any] = {"quantization": "gptq-int4", "dtype": "float16"}
_GPTQ8: dict[str, Any] = {"quantization": "gptq-int8", "dtype": "float16"}
_BNB4: dict[str, Any] = {"quantization": "bnb-4bit", "dtype": "bfloat16"}


def _entry(id: str, modelscope: str, huggingface: str | None, template: str | None, *about: dict[str, Any]) -> Entry:
    """An entry whose LoRA targets are the query, key and value projections, as all of the older tool's were."""
    merged: dict[str, Any] = {}
    for values in about:
        merged |= values
    return Entry(
        id=id,
        modelscope=modelscope,
        huggingface=huggingface,
        template=template,
        lora_target_modules=(QKV_GROUP,),
        **merged,
    )


ENTRIES_2023: tuple[Entry, ...] = (
    _entry("qwen-7b", "qwen/Qwen-7B", "Qwen/Qwen-7B", None, _QWEN),
    _entry("qwen-7b-chat", "qwen/Qwen-7B-Chat", "Qwen/Qwen-7B-Chat", "chatml", _QWEN),
    _entry("qwen-14b", "qwen/Qwen-14B", "Qwen/Qwen-14B", None, _QWEN),
    _entry("qwen-14b-chat", "qwen/Qwen-14B-Chat", "Qwen/Qwen-14B-Chat", "chatml", _QWEN),
    _entry("qwen-7b-chat-int4", "qwen/Qwen-7B-Chat-Int4", "Qwen/Qwen-7B-Chat-Int4", "chatml", _QWEN, _GPTQ4),
    _entry("qwen-14b-chat-int4", "qwen/Qwen-14B-Chat-Int4", "Qwen/Qwen-14B-Chat-Int4", "chatml", _QWEN, _GPTQ4),
    _entry("qwen-7b-chat-int8", "qwen/Qwen-7B-Chat-Int8", "Qwen/Qwen-7B-Chat-Int8", "chatml", _QWEN, _GPTQ8),
    _entry("qwen-14b-chat-int8", "qwen/Qwen-14B-Chat-Int8", "Qwen/Qwen-14B-Chat-Int8", "chatml", _QWEN, _GPTQ8),
    _entry("qwen-vl", "qwen/Qwen-VL", "Qwen/Qwen-VL", None, _QWEN_VL),
    _entry("qwen-vl-chat", "qwen/Qwen-VL-Chat", "Qwen/Qwen-VL-Chat", "chatml", _QWEN_VL),
    _entry("qwen-vl-chat-int4", "qwen/Qwen-VL-Chat-Int4", "Qwen/Qwen-VL-Chat-Int4", "chatml", _QWEN_VL, _GPTQ4),
    _entry("baichuan-7b", "baichuan-inc/baichuan-7B", "baichuan-inc/Baichuan-7B", None, _BAICHUAN_7B),
    _entry("baichuan-13b", "baichuan-inc/Baichuan-13B-Base", "baichuan-inc/Baichuan-13B-Base", None, _BAICHUAN_13B),
    _entry(
        "baichuan-13b-chat",
        "baichuan-inc/Baichuan-13B-Chat",
        "baichuan-inc/Baichuan-13B-Chat",
        "baichuan",
        _BAICHUAN_13B,
    ),
    _entry("baichuan2-7b", "baichuan-inc/Baichuan2-7B-Base", "baichuan-inc/Baichuan2-7B-Base", None, _BAICHUAN2_7B),
    _entry(
        "baichuan2-7b-chat",
        "baichuan-inc/Baichuan2-7B-Chat",
        "baichuan-inc/Baichuan2-7B-Chat",
        "baichuan",
        _BAICHUAN2_7B,
    ),
    _entry(
        "baichuan2-7b-chat-int4",
        "baichuan-inc/Baichuan2-7B-Chat-4bits",
        "baichuan-inc/Baichuan2-7B-Chat-4bits",
        "baichuan",
        _BAICHUAN2_7B,
        _BNB4,
    ),
    _entry("baichuan2-13b", "baichuan-inc/Baichuan2-13B-Base", "baichuan-inc/Baichuan2-13B-Base", None, _BAICHUAN2_13B),
    _entry(
        "baichuan2-13b-chat",
        "baichuan-inc/Baichuan2-13B-Chat",
        "baichuan-inc/Baichuan2-13B-Chat",
        "baichuan",
        _BAICHUAN2_13B,
    ),
    _entry(
        "baichuan2-13b-chat-int4",
        "baichuan-inc/Baichuan2-13B-Chat-4bits",
        "baichuan-inc/Baichuan2-13B-Chat-4bits",
        "baichuan",
        _BAICHUAN2_13B,
        _BNB4,
    ),
    _entry("chatglm2-6b", "ZhipuAI/chatglm2-6b", "THUDM/chatglm2-6b", "chatglm2", _CHATGLM2),
    _entry("chatglm2-6b-32k", "ZhipuAI/chatglm2-6b-32k", "THUDM/chatglm2-6b-32k", "chatglm2", _CHATGLM2),
    _entry("llama2-7b", "modelscope/Llama-2-7b-ms", "meta-llama/Llama-2-7b-hf", None, _LLAMA2),
    _entry("llama2-13b", "modelscope/Llama-2-13b-ms", "meta-llama/Llama-2-13b-hf", None, _LLAMA2),
    _entry("llama2-70b", "modelscope/Llama-2-70b-ms", "meta-llama/Llama-2-70b-hf", None, _LLAMA2),
    _entry("llama2-7b-chat", "modelscope/Llama-2-7b-chat-ms", "meta-llama/Llama-2-7b-chat-hf", "llama", _LLAMA2),
    _entry("llama2-13b-chat", "modelscope/Llama-2-13b-chat-ms", "meta-llama/Llama-2-13b-chat-hf", "llama", _LLAMA2),
    _entry("llama2-70b-chat", "modelscope/Llama-2-70b-chat-ms", "meta-llama/Llama-2-70b-chat-hf", "llama", _LLAMA2),
    _entry(
        "openbuddy-llama2-13b-chat",
        "OpenBuddy/openbuddy-llama2-13b-v8.1-fp16",
        "OpenBuddy/openbuddy-llama2-13b-v8.1-fp16",
        "openbuddy",
        _LLAMA,
    ),
    _entry(
        "openbuddy-llama-65b-chat",
        "OpenBuddy/openbuddy-llama-65b-v8-bf16",
        "OpenBuddy/openbuddy-llama-65b-v8-bf16",
        "openbuddy",
        _LLAMA,
        {"notes": "the first LLaMA"},
    ),
    _entry(
        "openbuddy-llama2-70b-chat",
        "OpenBuddy/openbuddy-llama2-70b-v10.1-bf16",
        "OpenBuddy/openbuddy-llama2-70b-v10.1-bf16",
        "openbuddy",
        _LLAMA,
    ),
    _entry("openbuddy-mistral-7b-chat", "OpenBuddy/openbuddy-mistral-7b-v13.1", None, "openbuddy", _MISTRAL),
    _entry("internlm-7b", "Shanghai_AI_Laboratory/internlm-7b", "internlm/internlm-7b", None, _INTERNLM),
    _entry(
        "internlm-7b-chat",
        "Shanghai_AI_Laboratory/internlm-chat-7b-v1_1",
        "internlm/internlm-chat-7b-v1_1",
        "internlm",
        _INTERNLM,
    ),
    _entry(
        "internlm-7b-chat-8k",
        "Shanghai_AI_Laboratory/internlm-chat-7b-8k",
        "internlm/internlm-chat-7b-8k",
        "internlm",
        _INTERNLM,
    ),
    _entry("internlm-20b", "Shanghai_AI_Laboratory/internlm-20b", "internlm/internlm-20b", None, _INTERNLM),
    _entry(
        "internlm-20b-chat",
        "Shanghai_AI_Laboratory/internlm-chat-20b",
        "internlm/internlm-chat-20b",
        "internlm",
        _INTERNLM,
    ),
    _entry("xverse-7b", "xverse/XVERSE-7B", "xverse/XVERSE-7B", None, _XVERSE),
    _entry("xverse-7b-chat", "xverse/XVERSE-7B-Chat", "xverse/XVERSE-7B-Chat", "xverse", _XVERSE),
    _entry("xverse-13b", "xverse/XVERSE-13B", "xverse/XVERSE-13B", None, _XVERSE),
    _entry("xverse-13b-chat", "xverse/XVERSE-13B-Chat", "xverse/XVERSE-13B-Chat", "xverse", _XVERSE),
    _entry("mistral-7b", "AI-ModelScope/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", None, _MISTRAL),
    _entry(
        "mistral-7b-chat",
        "AI-ModelScope/Mistral-7B-Instruct-v0.1",
        "mistralai/Mistral-7B-Instruct-v0.1",
        "llama",
        _MISTRAL,
    ),
    _entry("ziya2-13b", "Fengshenbang/Ziya2-13B-Base", "IDEA-CCNL/Ziya2-13B-Base", None, _LLAMA),
    _entry("ziya2-13b-chat", "Fengshenbang/Ziya2-13B-Chat", "IDEA-CCNL/Ziya2-13B-Chat", "ziya", _LLAMA),
    _entry(
        "polylm-13b",
        "damo/nlp_polylm_13b_text_generation",
        "DAMO-NLP-MT/polylm-13b",
        None,
        {"family": "polylm", "qkv": ("c_attn",)},
    ),
    _entry(
        "seqgpt-560m",
        "damo/nlp_seqgpt-560m",
        "DAMO-NLP/SeqGPT-560M",
        "default-generation",
        {"family": "bloom", "qkv": ("query_key_value",)},
    ),
    # By 31 October 2023 (appendix A).
    _entry("chatglm3-6b-base", "ZhipuAI/chatglm3-6b-base", "THUDM/chatglm3-6b-base", "default", _CHATGLM3),
    _entry("chatglm3-6b", "ZhipuAI/chatglm3-6b", "THUDM/chatglm3-6b", "chatglm3", _CHATGLM3),
    _entry("chatglm3-6b-32k", "ZhipuAI/chatglm3-6b-32k", "THUDM/chatglm3-6b-32k", "chatglm3", _CHATGLM3),
    _entry("skywork-13b", "skywork/Skywork-13B-base", "Skywork/Skywork-13B-base", "default", _SKYWORK),
    _entry(
        "skywork-13b-chat",
        "skywork/Skywork-13B-chat",
        None,
        "skywork",
        _SKYWORK,
        {"notes": "its template needs the tokens [USER], [BOT] and [SEP]"},
    ),
)
