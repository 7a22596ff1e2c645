"""Templates of the families of today, those of which the form is certain; one entry a template.

A checkpoint's own chat template comes first where it has one. A named template serves where it has none, and where the
own one cannot be trained with (GLM-4 writes no stop after an answer). Forms that depend on the date, that rewrite
earlier answers (Qwen3 with thinking) or that move the system text to the last question (later Mistral) have no entry.
"""

from __future__ import annotations

from hanlin.template.form import Template

_IM_TOKENS = ("<|im_start|>", "<|im_end|>")
_IM_HEADER = "<|im_start|>system\n{system}<|im_end|>\n"
_IM_PROMPT = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def _chatml(name: str, family: str, *, system: str = "", bos: str = "", also: tuple[str, ...] = ()) -> Template:
    """The form that many families share; they differ in the default system text and in BOS."""
    return Template(
        name=name,
        family=family,
        source=f"chat template published with {family}",
        header=bos + _IM_HEADER,
        bare_header=bos,
        prompt=_IM_PROMPT,
        suffix="<|im_end|>",
        separator="\n",
        system=system,
        tokens=_IM_TOKENS,
        also=also,
    )


ENTRIES = (
    _chatml("qwen", "Qwen1.5, Qwen2", system="You are a helpful assistant.", also=("qwen1.5", "qwen2")),
    _chatml("qwen2.5", "Qwen2.5", system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    _chatml("qwen3-instruct", "Qwen3-Instruct-2507 (without thinking)"),
    _chatml("yi", "Yi-Chat"),
    _chatml("internlm2", "InternLM2-Chat", bos="{bos}"),
    _chatml(
        "smollm2",
        "SmolLM2-Instruct",
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ),
    Template(
        name="llama2",
        family="Llama-2-chat",
        source="chat template published with Llama-2-chat; the space before an answer is the tokenizer's own",
        header="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
        bare_header="{bos}[INST] ",
        prompt="{user} [/INST]",
        suffix="{eos}",
        separator="{bos}[INST] ",
    ),
    Template(
        name="llama3",
        family="Llama-3-Instruct (3.1 and later write the date: take their own)",
        source="chat template published with Llama-3-Instruct",
        header="{bos}<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        bare_header="{bos}",
        prompt=(
            "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        suffix="<|eot_id|>",
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Template(
        name="mistral",
        family="Mistral-7B-Instruct v0.1, v0.2; Mixtral-Instruct v0.1",
        source="mistral-common, first version of the instruct tokenizer: the system text opens the first question",
        header="{bos}[INST] {system}\n\n",
        bare_header="{bos}[INST] ",
        prompt="{user} [/INST]",
        suffix="{eos}",
        separator="[INST] ",
    ),
    Template(
        name="gemma",
        family="Gemma 1, 2 and 3",
        source="chat template published with Gemma; the system text opens the first question, as in Gemma 3",
        header="{bos}<start_of_turn>user\n{system}\n\n",
        bare_header="{bos}<start_of_turn>user\n",
        prompt="{user}<end_of_turn>\n<start_of_turn>model\n",
        suffix="<end_of_turn>",
        separator="\n<start_of_turn>user\n",
        tokens=("<start_of_turn>", "<end_of_turn>"),
    ),
    Template(
        name="phi-3",
        family="Phi-3-Instruct, Phi-3.5-Instruct",
        source="chat template published with Phi-3.5",
        header="<|system|>\n{system}<|end|>\n",
        bare_header="",
        prompt="<|user|>\n{user}<|end|>\n<|assistant|>\n",
        suffix="<|end|>",
        separator="\n",
        tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        also=("phi3",),
    ),
    Template(
        name="phi-4",
        family="Phi-4",
        source="chat template published with Phi-4",
        header="<|im_start|>system<|im_sep|>{system}<|im_end|>",
        bare_header="",
        prompt="<|im_start|>user<|im_sep|>{user}<|im_end|><|im_start|>assistant<|im_sep|>",
        suffix="<|im_end|>",
        tokens=(*_IM_TOKENS, "<|im_sep|>"),
        also=("phi4",),
    ),
    Template(
        name="deepseek-v3",
        family="DeepSeek-V2.5, V3 (R1 and its distills think: take their own)",
        source="chat template published with DeepSeek-V3",
        header="{bos}{system}",
        bare_header="{bos}",
        prompt="<｜User｜>{user}<｜Assistant｜>",
        suffix="{eos}",
        tokens=("<｜User｜>", "<｜Assistant｜>"),
    ),
    Template(
        name="glm4",
        family="GLM-4-9B-Chat",
        # The next turn's marker is what stops an answer, so it is the suffix, and the first one stands in the header.
        source="chat template published with GLM-4",
        header="[gMASK]<sop><|system|>\n{system}<|user|>",
        bare_header="[gMASK]<sop><|user|>",
        prompt="\n{user}<|assistant|>\n",
        suffix="<|user|>",
        tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    Template(
        name="zephyr",
        family="Zephyr",
        source="chat template published with Zephyr-7B-beta",
        header="<|system|>\n{system}{eos}\n",
        bare_header="",
        prompt="<|user|>\n{user}{eos}\n<|assistant|>\n",
        suffix="{eos}",
        separator="\n",
    ),
    Template(
        name="vicuna",
        family="Vicuna v1.1 to v1.5",
        source="FastChat, conversation template vicuna_v1.1",
        header="{bos}{system} ",
        bare_header="{bos}",
        prompt="USER: {user} ASSISTANT:",
        suffix="{eos}",
        system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
    ),
    Template(
        name="command-r",
        family="Command R",
        source="chat template published with Command R",
        header="{bos}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{system}<|END_OF_TURN_TOKEN|>",
        bare_header="{bos}",
        prompt=(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{user}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        ),
        suffix="<|END_OF_TURN_TOKEN|>",
        tokens=(
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ),
    ),
)
"""All entries, in the order of the list that ``hanlin templates`` prints."""
