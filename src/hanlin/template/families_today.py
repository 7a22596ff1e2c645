"""Templates of the families of today, those of which the form is certain; one entry a template.

A checkpoint's own chat template comes first where it has one. A named template serves where it has none, and where the
own one cannot be trained with (GLM-4 writes no stop after an answer). Forms that rewrite earlier answers (Qwen3 with
thinking, DeepSeek-R1 and its distills) or depend on the day (Llama 3.2) have no entry: what was trained would not be
what stands there later. Of forms of tools those stand here that the family's published template writes; the others have
none here, as Mistral's, which wants ids of calls.
"""

from __future__ import annotations

from hanlin.template.form import Template, ToolForm

_IM_TOKENS = ("<|im_start|>", "<|im_end|>")
_IM_HEADER = "<|im_start|>system\n{system}<|im_end|>\n"
_LLAMA_SYSTEM = "{bos}<|start_header_id|>system<|end_header_id|>\n\n"
_LLAMA_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_LLAMA_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
_LLAMA_ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_IM_PROMPT = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
_GLM_TOOLS = (
    "[gMASK]<sop><|system|>\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具{tools}"
)


def _tools_in_tags(bare_gap: str) -> ToolForm:
    """Tools as Hermes and Qwen write them; ``bare_gap`` is what stands before the list where no system text does."""
    listed = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{tools}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
    )
    return ToolForm(
        header=f"<|im_start|>system\n{{system}}\n\n{listed}",
        bare_header=f"<|im_start|>system\n{bare_gap}{listed}",
        tool="\n{tool}",
        before_calls="\n",
        call='<tool_call>\n{"name": "{name}", "arguments": {arguments}}\n</tool_call>',
        between_calls="\n",
        result="\n<tool_response>\n{result}\n</tool_response>",
        results="<|im_start|>user{results}<|im_end|>\n<|im_start|>assistant\n",
    )


def _chatml(
    name: str,
    family: str,
    *,
    system: str = "",
    bos: str = "",
    empty_thought: str = "",
    tools: ToolForm | None = None,
    also: tuple[str, ...] = (),
) -> Template:
    """The form that many families share; they differ in the default system text, in BOS and in tools."""
    return Template(
        name=name,
        family=family,
        source=f"chat template published with {family}",
        header=bos + _IM_HEADER,
        bare_header=bos,
        prompt=_IM_PROMPT,
        empty_thought=empty_thought,
        suffix="<|im_end|>",
        separator="\n",
        system=system,
        tokens=(*_IM_TOKENS, *empty_thought.split()),
        also=also,
        tools=tools,
    )


ENTRIES = (
    _chatml("qwen", "Qwen1.5, Qwen2", system="You are a helpful assistant.", also=("qwen1.5", "qwen2")),
    _chatml(
        "qwen2.5",
        "Qwen2.5",
        system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        tools=_tools_in_tags("\n\n"),
    ),
    # As with enable_thinking=False: the empty thought stands before the last answer, and earlier answers lose theirs.
    # To train them as they stand, where the model would think, would teach it not to.
    _chatml(
        "qwen3",
        "Qwen3 that can think, without thinking",
        empty_thought="<think>\n\n</think>\n\n",
        tools=_tools_in_tags(""),
    ),
    _chatml("qwen3-instruct", "Qwen3-Instruct-2507 (without thinking)", tools=_tools_in_tags("")),
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
        family="Llama-3-Instruct",
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
        name="llama3.1",
        family="Llama-3.1-Instruct (3.2 and later write the day of use: take their own)",
        source="chat template published with Llama-3.1-Instruct, with the date that it writes when it is given none",
        header=f"{_LLAMA_SYSTEM}{_LLAMA_DATES}{{system}}<|eot_id|>",
        bare_header=f"{_LLAMA_SYSTEM}{_LLAMA_DATES}<|eot_id|>",
        prompt=f"{_LLAMA_USER}{{user}}<|eot_id|>{_LLAMA_ASSISTANT}",
        suffix="<|eot_id|>",
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        also=("llama-3.1",),
        tools=ToolForm(
            header=f"{_LLAMA_SYSTEM}Environment: ipython\n{_LLAMA_DATES}{{system}}<|eot_id|>",
            bare_header=f"{_LLAMA_SYSTEM}Environment: ipython\n{_LLAMA_DATES}<|eot_id|>",
            first_prompt=(
                f"{_LLAMA_USER}Given the following functions, please respond with a JSON for a function call with its "
                "proper arguments that best answers the given prompt.\n\n"
                'Respond in the format {"name": function name, "parameters": dictionary of argument name and its '
                "value}.Do not use variables.\n\n"
                f"{{tools}}{{user}}<|eot_id|>{_LLAMA_ASSISTANT}"
            ),
            tool="{tool}\n\n",
            indent=4,
            call='{"name": "{name}", "parameters": {arguments}}',
            result="<|start_header_id|>ipython<|end_header_id|>\n\n{result}<|eot_id|>",
            quoted_results=True,
            results=f"{{results}}{_LLAMA_ASSISTANT}",
        ),
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
        name="mistral-v0.3",
        family="Mistral-7B-Instruct v0.3, Mistral-Nemo-Instruct",
        source="mistral-common, third version of the instruct tokenizer: the system text opens the last question",
        header="{bos}",
        prompt="[INST]{user}[/INST]",
        last_prompt="[INST]{system}\n\n{user}[/INST]",
        suffix="{eos}",
        tokens=("[INST]", "[/INST]"),
        also=("mistral-nemo",),
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
        tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        tools=ToolForm(
            header=f"{_GLM_TOOLS}<|system|>\n{{system}}<|user|>",
            bare_header=f"{_GLM_TOOLS}<|user|>",
            # A call has its name where an answer has nothing: the line break is the model's own then.
            prompt="\n{user}<|assistant|>",
            lead="\n",
            tool="\n\n## {name}\n\n{function}\n在调用上述函数时，请使用 Json 格式表示调用的参数。",
            indent=4,
            call="{name}\n{arguments}",
            call_suffix="<|observation|>",
            result="\n{result}",
            between_results="<|observation|>",
            results="{results}<|assistant|>",
        ),
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
