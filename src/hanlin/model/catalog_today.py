"""Well-known models of today that transformers loads with its own code, and those that become a native family
(InternLM2, the long ones of ChatGLM3 and GLM-4). The tokenizers bring their own chat templates.

Ids of the publishers; an id is left out where it is not certain. LoRA updates go to every linear module unless the user
says otherwise.
"""

from __future__ import annotations

from hanlin.model.entry import Q_K_V, Entry

_FUSED = {"phi3": ("qkv_proj",), "internlm2": ("wqkv",), "chatglm3": ("query_key_value",)}
"""Families that make queries, keys and values in one projection."""


def _entry(id: str, family: str, huggingface: str, modelscope: str | None, template: str | None = None) -> Entry:
    return Entry(
        id=id,
        family=family,
        huggingface=huggingface,
        modelscope=modelscope,
        template=template,
        qkv=_FUSED.get(family, Q_K_V),
    )


def _both(id: str, family: str, name: str) -> Entry:
    """A model that has the same id on both hubs."""
    return _entry(id, family, name, name)


ENTRIES_TODAY: tuple[Entry, ...] = (
    # Qwen: https://huggingface.co/Qwen
    _both("qwen1.5-0.5b", "qwen2", "Qwen/Qwen1.5-0.5B"),
    _both("qwen1.5-0.5b-chat", "qwen2", "Qwen/Qwen1.5-0.5B-Chat"),
    _both("qwen1.5-1.8b", "qwen2", "Qwen/Qwen1.5-1.8B"),
    _both("qwen1.5-1.8b-chat", "qwen2", "Qwen/Qwen1.5-1.8B-Chat"),
    _both("qwen1.5-4b", "qwen2", "Qwen/Qwen1.5-4B"),
    _both("qwen1.5-4b-chat", "qwen2", "Qwen/Qwen1.5-4B-Chat"),
    _both("qwen1.5-7b", "qwen2", "Qwen/Qwen1.5-7B"),
    _both("qwen1.5-7b-chat", "qwen2", "Qwen/Qwen1.5-7B-Chat"),
    _both("qwen1.5-14b", "qwen2", "Qwen/Qwen1.5-14B"),
    _both("qwen1.5-14b-chat", "qwen2", "Qwen/Qwen1.5-14B-Chat"),
    _both("qwen1.5-32b", "qwen2", "Qwen/Qwen1.5-32B"),
    _both("qwen1.5-32b-chat", "qwen2", "Qwen/Qwen1.5-32B-Chat"),
    _both("qwen1.5-72b", "qwen2", "Qwen/Qwen1.5-72B"),
    _both("qwen1.5-72b-chat", "qwen2", "Qwen/Qwen1.5-72B-Chat"),
    _both("qwen1.5-110b", "qwen2", "Qwen/Qwen1.5-110B"),
    _both("qwen1.5-110b-chat", "qwen2", "Qwen/Qwen1.5-110B-Chat"),
    _both("qwen1.5-moe-a2.7b", "qwen2_moe", "Qwen/Qwen1.5-MoE-A2.7B"),
    _both("qwen1.5-moe-a2.7b-chat", "qwen2_moe", "Qwen/Qwen1.5-MoE-A2.7B-Chat"),
    _both("qwen2-0.5b", "qwen2", "Qwen/Qwen2-0.5B"),
    _both("qwen2-0.5b-instruct", "qwen2", "Qwen/Qwen2-0.5B-Instruct"),
    _both("qwen2-1.5b", "qwen2", "Qwen/Qwen2-1.5B"),
    _both("qwen2-1.5b-instruct", "qwen2", "Qwen/Qwen2-1.5B-Instruct"),
    _both("qwen2-7b", "qwen2", "Qwen/Qwen2-7B"),
    _both("qwen2-7b-instruct", "qwen2", "Qwen/Qwen2-7B-Instruct"),
    _both("qwen2-72b", "qwen2", "Qwen/Qwen2-72B"),
    _both("qwen2-72b-instruct", "qwen2", "Qwen/Qwen2-72B-Instruct"),
    _both("qwen2-57b-a14b", "qwen2_moe", "Qwen/Qwen2-57B-A14B"),
    _both("qwen2-57b-a14b-instruct", "qwen2_moe", "Qwen/Qwen2-57B-A14B-Instruct"),
    _both("qwen2.5-0.5b", "qwen2", "Qwen/Qwen2.5-0.5B"),
    _both("qwen2.5-0.5b-instruct", "qwen2", "Qwen/Qwen2.5-0.5B-Instruct"),
    _both("qwen2.5-1.5b", "qwen2", "Qwen/Qwen2.5-1.5B"),
    _both("qwen2.5-1.5b-instruct", "qwen2", "Qwen/Qwen2.5-1.5B-Instruct"),
    _both("qwen2.5-3b", "qwen2", "Qwen/Qwen2.5-3B"),
    _both("qwen2.5-3b-instruct", "qwen2", "Qwen/Qwen2.5-3B-Instruct"),
    _both("qwen2.5-7b", "qwen2", "Qwen/Qwen2.5-7B"),
    _both("qwen2.5-7b-instruct", "qwen2", "Qwen/Qwen2.5-7B-Instruct"),
    _both("qwen2.5-14b", "qwen2", "Qwen/Qwen2.5-14B"),
    _both("qwen2.5-14b-instruct", "qwen2", "Qwen/Qwen2.5-14B-Instruct"),
    _both("qwen2.5-32b", "qwen2", "Qwen/Qwen2.5-32B"),
    _both("qwen2.5-32b-instruct", "qwen2", "Qwen/Qwen2.5-32B-Instruct"),
    _both("qwen2.5-72b", "qwen2", "Qwen/Qwen2.5-72B"),
    _both("qwen2.5-72b-instruct", "qwen2", "Qwen/Qwen2.5-72B-Instruct"),
    _both("qwen2.5-coder-0.5b", "qwen2", "Qwen/Qwen2.5-Coder-0.5B"),
    _both("qwen2.5-coder-0.5b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    _both("qwen2.5-coder-1.5b", "qwen2", "Qwen/Qwen2.5-Coder-1.5B"),
    _both("qwen2.5-coder-1.5b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
    _both("qwen2.5-coder-3b", "qwen2", "Qwen/Qwen2.5-Coder-3B"),
    _both("qwen2.5-coder-3b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-3B-Instruct"),
    _both("qwen2.5-coder-7b", "qwen2", "Qwen/Qwen2.5-Coder-7B"),
    _both("qwen2.5-coder-7b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    _both("qwen2.5-coder-14b", "qwen2", "Qwen/Qwen2.5-Coder-14B"),
    _both("qwen2.5-coder-14b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-14B-Instruct"),
    _both("qwen2.5-coder-32b", "qwen2", "Qwen/Qwen2.5-Coder-32B"),
    _both("qwen2.5-coder-32b-instruct", "qwen2", "Qwen/Qwen2.5-Coder-32B-Instruct"),
    _both("qwen2.5-math-1.5b", "qwen2", "Qwen/Qwen2.5-Math-1.5B"),
    _both("qwen2.5-math-1.5b-instruct", "qwen2", "Qwen/Qwen2.5-Math-1.5B-Instruct"),
    _both("qwen2.5-math-7b", "qwen2", "Qwen/Qwen2.5-Math-7B"),
    _both("qwen2.5-math-7b-instruct", "qwen2", "Qwen/Qwen2.5-Math-7B-Instruct"),
    _both("qwen2.5-math-72b", "qwen2", "Qwen/Qwen2.5-Math-72B"),
    _both("qwen2.5-math-72b-instruct", "qwen2", "Qwen/Qwen2.5-Math-72B-Instruct"),
    _both("qwq-32b", "qwen2", "Qwen/QwQ-32B"),
    _both("qwen3-0.6b-base", "qwen3", "Qwen/Qwen3-0.6B-Base"),
    _both("qwen3-0.6b", "qwen3", "Qwen/Qwen3-0.6B"),
    _both("qwen3-1.7b-base", "qwen3", "Qwen/Qwen3-1.7B-Base"),
    _both("qwen3-1.7b", "qwen3", "Qwen/Qwen3-1.7B"),
    _both("qwen3-4b-base", "qwen3", "Qwen/Qwen3-4B-Base"),
    _both("qwen3-4b", "qwen3", "Qwen/Qwen3-4B"),
    _both("qwen3-8b-base", "qwen3", "Qwen/Qwen3-8B-Base"),
    _both("qwen3-8b", "qwen3", "Qwen/Qwen3-8B"),
    _both("qwen3-14b-base", "qwen3", "Qwen/Qwen3-14B-Base"),
    _both("qwen3-14b", "qwen3", "Qwen/Qwen3-14B"),
    _both("qwen3-32b", "qwen3", "Qwen/Qwen3-32B"),
    _both("qwen3-4b-instruct-2507", "qwen3", "Qwen/Qwen3-4B-Instruct-2507"),
    _both("qwen3-4b-thinking-2507", "qwen3", "Qwen/Qwen3-4B-Thinking-2507"),
    _both("qwen3-30b-a3b-base", "qwen3_moe", "Qwen/Qwen3-30B-A3B-Base"),
    _both("qwen3-30b-a3b", "qwen3_moe", "Qwen/Qwen3-30B-A3B"),
    _both("qwen3-30b-a3b-instruct-2507", "qwen3_moe", "Qwen/Qwen3-30B-A3B-Instruct-2507"),
    _both("qwen3-30b-a3b-thinking-2507", "qwen3_moe", "Qwen/Qwen3-30B-A3B-Thinking-2507"),
    _both("qwen3-235b-a22b", "qwen3_moe", "Qwen/Qwen3-235B-A22B"),
    _both("qwen3-235b-a22b-instruct-2507", "qwen3_moe", "Qwen/Qwen3-235B-A22B-Instruct-2507"),
    _both("qwen3-235b-a22b-thinking-2507", "qwen3_moe", "Qwen/Qwen3-235B-A22B-Thinking-2507"),
    # Llama: https://huggingface.co/meta-llama; on ModelScope under LLM-Research
    _entry("llama3-8b", "llama", "meta-llama/Meta-Llama-3-8B", "LLM-Research/Meta-Llama-3-8B"),
    _entry(
        "llama3-8b-instruct", "llama", "meta-llama/Meta-Llama-3-8B-Instruct", "LLM-Research/Meta-Llama-3-8B-Instruct"
    ),
    _entry("llama3-70b", "llama", "meta-llama/Meta-Llama-3-70B", "LLM-Research/Meta-Llama-3-70B"),
    _entry(
        "llama3-70b-instruct", "llama", "meta-llama/Meta-Llama-3-70B-Instruct", "LLM-Research/Meta-Llama-3-70B-Instruct"
    ),
    _entry("llama3.1-8b", "llama", "meta-llama/Llama-3.1-8B", "LLM-Research/Meta-Llama-3.1-8B"),
    _entry(
        "llama3.1-8b-instruct", "llama", "meta-llama/Llama-3.1-8B-Instruct", "LLM-Research/Meta-Llama-3.1-8B-Instruct"
    ),
    _entry("llama3.1-70b", "llama", "meta-llama/Llama-3.1-70B", "LLM-Research/Meta-Llama-3.1-70B"),
    _entry(
        "llama3.1-70b-instruct",
        "llama",
        "meta-llama/Llama-3.1-70B-Instruct",
        "LLM-Research/Meta-Llama-3.1-70B-Instruct",
    ),
    _entry("llama3.1-405b", "llama", "meta-llama/Llama-3.1-405B", "LLM-Research/Meta-Llama-3.1-405B"),
    _entry(
        "llama3.1-405b-instruct",
        "llama",
        "meta-llama/Llama-3.1-405B-Instruct",
        "LLM-Research/Meta-Llama-3.1-405B-Instruct",
    ),
    _entry("llama3.2-1b", "llama", "meta-llama/Llama-3.2-1B", "LLM-Research/Llama-3.2-1B"),
    _entry("llama3.2-1b-instruct", "llama", "meta-llama/Llama-3.2-1B-Instruct", "LLM-Research/Llama-3.2-1B-Instruct"),
    _entry("llama3.2-3b", "llama", "meta-llama/Llama-3.2-3B", "LLM-Research/Llama-3.2-3B"),
    _entry("llama3.2-3b-instruct", "llama", "meta-llama/Llama-3.2-3B-Instruct", "LLM-Research/Llama-3.2-3B-Instruct"),
    _entry(
        "llama3.3-70b-instruct", "llama", "meta-llama/Llama-3.3-70B-Instruct", "LLM-Research/Llama-3.3-70B-Instruct"
    ),
    # Chinese-LLaMA-Alpaca 2 and 3: https://huggingface.co/hfl
    _entry("chinese-llama-2-1.3b", "llama", "hfl/chinese-llama-2-1.3b", "AI-ModelScope/chinese-llama-2-1.3b"),
    _entry(
        "chinese-alpaca-2-1.3b",
        "llama",
        "hfl/chinese-alpaca-2-1.3b",
        "AI-ModelScope/chinese-alpaca-2-1.3b",
        "llama2-zh",
    ),
    _entry("chinese-llama-2-7b", "llama", "hfl/chinese-llama-2-7b", "AI-ModelScope/chinese-llama-2-7b"),
    _entry("chinese-alpaca-2-7b", "llama", "hfl/chinese-alpaca-2-7b", "AI-ModelScope/chinese-alpaca-2-7b", "llama2-zh"),
    _entry("chinese-llama-2-13b", "llama", "hfl/chinese-llama-2-13b", "AI-ModelScope/chinese-llama-2-13b"),
    _entry(
        "chinese-alpaca-2-13b", "llama", "hfl/chinese-alpaca-2-13b", "AI-ModelScope/chinese-alpaca-2-13b", "llama2-zh"
    ),
    _entry("llama-3-chinese-8b", "llama", "hfl/llama-3-chinese-8b", "ChineseAlpacaGroup/llama-3-chinese-8b"),
    _entry(
        "llama-3-chinese-8b-instruct",
        "llama",
        "hfl/llama-3-chinese-8b-instruct",
        "ChineseAlpacaGroup/llama-3-chinese-8b-instruct",
    ),
    # Mistral: https://huggingface.co/mistralai
    _entry("mistral-7b-v0.3", "mistral", "mistralai/Mistral-7B-v0.3", None),
    _entry(
        "mistral-7b-instruct-v0.2",
        "mistral",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "AI-ModelScope/Mistral-7B-Instruct-v0.2",
    ),
    _entry(
        "mistral-7b-instruct-v0.3",
        "mistral",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "LLM-Research/Mistral-7B-Instruct-v0.3",
    ),
    _entry("mixtral-8x7b", "mixtral", "mistralai/Mixtral-8x7B-v0.1", "AI-ModelScope/Mixtral-8x7B-v0.1"),
    _entry(
        "mixtral-8x7b-instruct",
        "mixtral",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "AI-ModelScope/Mixtral-8x7B-Instruct-v0.1",
    ),
    _entry(
        "mistral-nemo-base-2407", "mistral", "mistralai/Mistral-Nemo-Base-2407", "AI-ModelScope/Mistral-Nemo-Base-2407"
    ),
    _entry(
        "mistral-nemo-instruct-2407",
        "mistral",
        "mistralai/Mistral-Nemo-Instruct-2407",
        "AI-ModelScope/Mistral-Nemo-Instruct-2407",
    ),
    _entry(
        "ministral-8b-instruct-2410",
        "mistral",
        "mistralai/Ministral-8B-Instruct-2410",
        "AI-ModelScope/Ministral-8B-Instruct-2410",
    ),
    _both("mistral-small-24b-base-2501", "mistral", "mistralai/Mistral-Small-24B-Base-2501"),
    _both("mistral-small-24b-instruct-2501", "mistral", "mistralai/Mistral-Small-24B-Instruct-2501"),
    # ChatGLM3 and GLM-4: https://huggingface.co/zai-org (THUDM before). -hf is transformers' own format, the others
    # are in the layout with code, which is read as ChatGLM3's.
    _entry("chatglm3-6b-128k", "chatglm3", "THUDM/chatglm3-6b-128k", "ZhipuAI/chatglm3-6b-128k", "chatglm3"),
    _entry("glm-4-9b", "glm", "zai-org/glm-4-9b-hf", "ZhipuAI/glm-4-9b"),
    _entry("glm-4-9b-chat", "glm", "zai-org/glm-4-9b-chat-hf", "ZhipuAI/glm-4-9b-chat-hf"),
    _entry("glm-4-9b-chat-1m", "chatglm3", "zai-org/glm-4-9b-chat-1m", "ZhipuAI/glm-4-9b-chat-1m"),
    _entry("glm-4-9b-0414", "glm4", "zai-org/GLM-4-9B-0414", "ZhipuAI/GLM-4-9B-0414"),
    _entry("glm-4-32b-0414", "glm4", "zai-org/GLM-4-32B-0414", "ZhipuAI/GLM-4-32B-0414"),
    _entry("glm-z1-9b-0414", "glm4", "zai-org/GLM-Z1-9B-0414", "ZhipuAI/GLM-Z1-9B-0414"),
    _entry("glm-z1-32b-0414", "glm4", "zai-org/GLM-Z1-32B-0414", "ZhipuAI/GLM-Z1-32B-0414"),
    # DeepSeek: https://huggingface.co/deepseek-ai
    _both("deepseek-llm-7b-base", "llama", "deepseek-ai/deepseek-llm-7b-base"),
    _both("deepseek-llm-7b-chat", "llama", "deepseek-ai/deepseek-llm-7b-chat"),
    _both("deepseek-llm-67b-base", "llama", "deepseek-ai/deepseek-llm-67b-base"),
    _both("deepseek-llm-67b-chat", "llama", "deepseek-ai/deepseek-llm-67b-chat"),
    _both("deepseek-coder-1.3b-base", "llama", "deepseek-ai/deepseek-coder-1.3b-base"),
    _both("deepseek-coder-1.3b-instruct", "llama", "deepseek-ai/deepseek-coder-1.3b-instruct"),
    _both("deepseek-coder-6.7b-base", "llama", "deepseek-ai/deepseek-coder-6.7b-base"),
    _both("deepseek-coder-6.7b-instruct", "llama", "deepseek-ai/deepseek-coder-6.7b-instruct"),
    _both("deepseek-coder-33b-base", "llama", "deepseek-ai/deepseek-coder-33b-base"),
    _both("deepseek-coder-33b-instruct", "llama", "deepseek-ai/deepseek-coder-33b-instruct"),
    _both("deepseek-math-7b-base", "llama", "deepseek-ai/deepseek-math-7b-base"),
    _both("deepseek-math-7b-instruct", "llama", "deepseek-ai/deepseek-math-7b-instruct"),
    _both("deepseek-math-7b-rl", "llama", "deepseek-ai/deepseek-math-7b-rl"),
    _both("deepseek-r1-distill-qwen-1.5b", "qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    _both("deepseek-r1-distill-qwen-7b", "qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
    _both("deepseek-r1-distill-qwen-14b", "qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
    _both("deepseek-r1-distill-qwen-32b", "qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"),
    _both("deepseek-r1-distill-llama-8b", "llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
    _both("deepseek-r1-distill-llama-70b", "llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"),
    _both("deepseek-r1-0528-qwen3-8b", "qwen3", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"),
    # Gemma, the models of text alone: https://huggingface.co/google
    _entry("gemma-2b", "gemma", "google/gemma-2b", "AI-ModelScope/gemma-2b"),
    _entry("gemma-2b-it", "gemma", "google/gemma-2b-it", "AI-ModelScope/gemma-2b-it"),
    _entry("gemma-7b", "gemma", "google/gemma-7b", "AI-ModelScope/gemma-7b"),
    _entry("gemma-7b-it", "gemma", "google/gemma-7b-it", "AI-ModelScope/gemma-7b-it"),
    _entry("gemma-2-2b", "gemma2", "google/gemma-2-2b", "LLM-Research/gemma-2-2b"),
    _entry("gemma-2-2b-it", "gemma2", "google/gemma-2-2b-it", "LLM-Research/gemma-2-2b-it"),
    _entry("gemma-2-9b", "gemma2", "google/gemma-2-9b", "LLM-Research/gemma-2-9b"),
    _entry("gemma-2-9b-it", "gemma2", "google/gemma-2-9b-it", "LLM-Research/gemma-2-9b-it"),
    _entry("gemma-2-27b", "gemma2", "google/gemma-2-27b", "LLM-Research/gemma-2-27b"),
    _entry("gemma-2-27b-it", "gemma2", "google/gemma-2-27b-it", "LLM-Research/gemma-2-27b-it"),
    _both("gemma-3-270m", "gemma3_text", "google/gemma-3-270m"),
    _both("gemma-3-270m-it", "gemma3_text", "google/gemma-3-270m-it"),
    _entry("gemma-3-1b-pt", "gemma3_text", "google/gemma-3-1b-pt", "LLM-Research/gemma-3-1b-pt"),
    _entry("gemma-3-1b-it", "gemma3_text", "google/gemma-3-1b-it", "LLM-Research/gemma-3-1b-it"),
    # Phi: https://huggingface.co/microsoft
    _entry("phi-2", "phi", "microsoft/phi-2", "AI-ModelScope/phi-2"),
    _entry("phi-3-mini-4k-instruct", "phi3", "microsoft/Phi-3-mini-4k-instruct", "LLM-Research/Phi-3-mini-4k-instruct"),
    _entry(
        "phi-3-mini-128k-instruct",
        "phi3",
        "microsoft/Phi-3-mini-128k-instruct",
        "LLM-Research/Phi-3-mini-128k-instruct",
    ),
    _entry(
        "phi-3-medium-4k-instruct",
        "phi3",
        "microsoft/Phi-3-medium-4k-instruct",
        "LLM-Research/Phi-3-medium-4k-instruct",
    ),
    _entry(
        "phi-3-medium-128k-instruct",
        "phi3",
        "microsoft/Phi-3-medium-128k-instruct",
        "LLM-Research/Phi-3-medium-128k-instruct",
    ),
    _entry("phi-3.5-mini-instruct", "phi3", "microsoft/Phi-3.5-mini-instruct", "LLM-Research/Phi-3.5-mini-instruct"),
    _entry("phi-4", "phi3", "microsoft/phi-4", "LLM-Research/phi-4"),
    _entry("phi-4-mini-instruct", "phi3", "microsoft/Phi-4-mini-instruct", "LLM-Research/Phi-4-mini-instruct"),
    # Yi: https://huggingface.co/01-ai
    _entry("yi-6b", "llama", "01-ai/Yi-6B", "01ai/Yi-6B"),
    _entry("yi-6b-chat", "llama", "01-ai/Yi-6B-Chat", "01ai/Yi-6B-Chat"),
    _entry("yi-9b", "llama", "01-ai/Yi-9B", "01ai/Yi-9B"),
    _entry("yi-34b", "llama", "01-ai/Yi-34B", "01ai/Yi-34B"),
    _entry("yi-34b-chat", "llama", "01-ai/Yi-34B-Chat", "01ai/Yi-34B-Chat"),
    _entry("yi-1.5-6b", "llama", "01-ai/Yi-1.5-6B", "01ai/Yi-1.5-6B"),
    _entry("yi-1.5-6b-chat", "llama", "01-ai/Yi-1.5-6B-Chat", "01ai/Yi-1.5-6B-Chat"),
    _entry("yi-1.5-9b", "llama", "01-ai/Yi-1.5-9B", "01ai/Yi-1.5-9B"),
    _entry("yi-1.5-9b-chat", "llama", "01-ai/Yi-1.5-9B-Chat", "01ai/Yi-1.5-9B-Chat"),
    _entry("yi-1.5-34b", "llama", "01-ai/Yi-1.5-34B", "01ai/Yi-1.5-34B"),
    _entry("yi-1.5-34b-chat", "llama", "01-ai/Yi-1.5-34B-Chat", "01ai/Yi-1.5-34B-Chat"),
    # InternLM 2 and 2.5, in their own layout: https://huggingface.co/internlm
    _entry("internlm2-1.8b", "internlm2", "internlm/internlm2-1_8b", "Shanghai_AI_Laboratory/internlm2-1_8b"),
    _entry(
        "internlm2-1.8b-chat", "internlm2", "internlm/internlm2-chat-1_8b", "Shanghai_AI_Laboratory/internlm2-chat-1_8b"
    ),
    _entry("internlm2-7b", "internlm2", "internlm/internlm2-7b", "Shanghai_AI_Laboratory/internlm2-7b"),
    _entry("internlm2-7b-chat", "internlm2", "internlm/internlm2-chat-7b", "Shanghai_AI_Laboratory/internlm2-chat-7b"),
    _entry("internlm2-20b", "internlm2", "internlm/internlm2-20b", "Shanghai_AI_Laboratory/internlm2-20b"),
    _entry(
        "internlm2-20b-chat", "internlm2", "internlm/internlm2-chat-20b", "Shanghai_AI_Laboratory/internlm2-chat-20b"
    ),
    _entry("internlm2.5-1.8b", "internlm2", "internlm/internlm2_5-1_8b", "Shanghai_AI_Laboratory/internlm2_5-1_8b"),
    _entry(
        "internlm2.5-1.8b-chat",
        "internlm2",
        "internlm/internlm2_5-1_8b-chat",
        "Shanghai_AI_Laboratory/internlm2_5-1_8b-chat",
    ),
    _entry("internlm2.5-7b", "internlm2", "internlm/internlm2_5-7b", "Shanghai_AI_Laboratory/internlm2_5-7b"),
    _entry(
        "internlm2.5-7b-chat", "internlm2", "internlm/internlm2_5-7b-chat", "Shanghai_AI_Laboratory/internlm2_5-7b-chat"
    ),
    _entry(
        "internlm2.5-7b-chat-1m",
        "internlm2",
        "internlm/internlm2_5-7b-chat-1m",
        "Shanghai_AI_Laboratory/internlm2_5-7b-chat-1m",
    ),
    _entry("internlm2.5-20b", "internlm2", "internlm/internlm2_5-20b", "Shanghai_AI_Laboratory/internlm2_5-20b"),
    _entry(
        "internlm2.5-20b-chat",
        "internlm2",
        "internlm/internlm2_5-20b-chat",
        "Shanghai_AI_Laboratory/internlm2_5-20b-chat",
    ),
    # SmolLM: https://huggingface.co/HuggingFaceTB
    _entry("smollm-135m", "llama", "HuggingFaceTB/SmolLM-135M", None),
    _entry("smollm-135m-instruct", "llama", "HuggingFaceTB/SmolLM-135M-Instruct", None),
    _entry("smollm-360m", "llama", "HuggingFaceTB/SmolLM-360M", None),
    _entry("smollm-360m-instruct", "llama", "HuggingFaceTB/SmolLM-360M-Instruct", None),
    _entry("smollm-1.7b", "llama", "HuggingFaceTB/SmolLM-1.7B", None),
    _entry("smollm-1.7b-instruct", "llama", "HuggingFaceTB/SmolLM-1.7B-Instruct", None),
    _entry("smollm2-135m", "llama", "HuggingFaceTB/SmolLM2-135M", None),
    _entry("smollm2-135m-instruct", "llama", "HuggingFaceTB/SmolLM2-135M-Instruct", None),
    _entry("smollm2-360m", "llama", "HuggingFaceTB/SmolLM2-360M", None),
    _entry("smollm2-360m-instruct", "llama", "HuggingFaceTB/SmolLM2-360M-Instruct", None),
    _entry("smollm2-1.7b", "llama", "HuggingFaceTB/SmolLM2-1.7B", None),
    _entry("smollm2-1.7b-instruct", "llama", "HuggingFaceTB/SmolLM2-1.7B-Instruct", None),
    _entry("smollm3-3b-base", "smollm3", "HuggingFaceTB/SmolLM3-3B-Base", None),
    _entry("smollm3-3b", "smollm3", "HuggingFaceTB/SmolLM3-3B", None),
    # Others
    _entry("tinyllama-1.1b-chat", "llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", None),
    _entry("olmo-2-1124-7b", "olmo2", "allenai/OLMo-2-1124-7B", None),
    _entry("olmo-2-1124-7b-instruct", "olmo2", "allenai/OLMo-2-1124-7B-Instruct", None),
    _entry("olmo-2-1124-13b", "olmo2", "allenai/OLMo-2-1124-13B", None),
    _entry("olmo-2-1124-13b-instruct", "olmo2", "allenai/OLMo-2-1124-13B-Instruct", None),
)
