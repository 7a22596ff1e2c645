"""Entry points of 2023: which verb each of them is today, and what differs from it.

Their published defaults (specification 3.1, 4.1, 6.1, 7.1, and transformers 4.30 for the trainer's own fields) hold for
these entry points alone; the verbs have their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.config.parse import Defaults, split
from hanlin.errors import UserError

Pairs = list[tuple[str, list[str]]]
"""Flags with their words, in order."""

TRAINER: Mapping[str, Any] = {
    "do_train": False,
    "seed": 42,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "logging_steps": 500.0,
    "logging_first_step": False,
    "eval_strategy": "no",
    "save_steps": 500.0,
    "save_total_limit": None,
}
"""Defaults of transformers 4.30's TrainingArguments that the verbs set otherwise."""

LORA: Mapping[str, Any] = {
    "lora_rank": 8,
    "lora_alpha": 32.0,
    "lora_dropout": 0.1,
    "lora_target_modules": ("q_proj", "v_proj"),
    "modules_to_save": (),
}

LONGEST_BLOCK = 1024
"""Tokens of a block when neither --block_size nor the tokenizer says less."""

FIRST_GENERATION = frozenset(
    {
        "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0",
        "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8",
    }
)
"""SHA-256 of the published tokenizer.model of Chinese-LLaMA and Chinese-Alpaca, first generation."""

BUILT_IN_QUESTION = "请用三句话介绍一座中国古城。"
"""Asked by the inference script when it is given no file, so that a model can be tried at once."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command line of an older entry point as one of today."""

    verb: str
    argv: list[str]
    defaults: Defaults
    notices: list[str] = field(default_factory=list)


def translate(entry: str, argv: list[str]) -> Call:
    """The call of today for ``argv`` of the older entry point called ``entry`` (its file name). Raises UserError."""
    return ENTRY_POINTS[entry](list(argv))


def _constant(defaults: Mapping[str, Any]) -> Defaults:
    return lambda given: defaults


def _pre_training(argv: list[str]) -> Call:
    def defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
        limit = _tokenizer_limit(given.get("tokenizer"))
        own = {"validation_split_percentage": 0.05, "document": "line", "max_length": min(limit, LONGEST_BLOCK)}
        return {**TRAINER, **LORA, **own, "do_eval": _evaluates(given)}

    return Call("pt", _from_scratch(argv), defaults)


def _tuning(argv: list[str]) -> Call:
    def defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
        first = _sentencepiece_sum(given.get("tokenizer")) in FIRST_GENERATION
        own = {"template": "published", "max_length": 512 if first else 1024}
        return {**TRAINER, **LORA, **own, "do_eval": _evaluates(given)}

    return Call("sft", _from_scratch(argv), defaults)


def _from_scratch(argv: list[str]) -> list[str]:
    """The older --model_type was a model type of transformers; today's is an id of the catalog first."""
    renamed = ("--model_config" + word[len("--model_type") :] for word in argv)
    return [new if word.partition("=")[0] == "--model_type" else word for word, new in zip(argv, renamed, strict=True)]


def _evaluates(given: Mapping[str, Any]) -> bool:
    """--do_eval was off unless given, or unless an evaluation strategy was."""
    return str(given.get("eval_strategy", "no")) != "no"


def _tokenizer_limit(tokenizer: str | None) -> int:
    """``model_max_length`` of a tokenizer on this machine, in tokens; without one there is no limit."""
    path = Path(tokenizer or "") / "tokenizer_config.json"
    try:
        limit = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return LONGEST_BLOCK  # what is wrong with it is said when the tokenizer is loaded
    return int(limit) if isinstance(limit, int | float) and 8 <= limit < LONGEST_BLOCK else LONGEST_BLOCK


def _sentencepiece_sum(tokenizer: str | None) -> str:
    """SHA-256 of the tokenizer.model that ``tokenizer`` is or holds; empty without one on this machine."""
    path = Path(tokenizer or "")
    path = path / "tokenizer.model" if path.is_dir() else path
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _merging(output_type: str) -> Callable[[list[str]], Call]:
    defaults = _constant({"output_type": output_type, "output_dir": "./merged_model"})
    return lambda argv: Call("merge", argv, defaults)


def _merging_tokenizers(argv: list[str]) -> Call:
    return Call("older merge_tokenizers", argv, _constant({}))


_REJECTED = (
    # (flags that were refused together, why, and what to do): the combinations of the second generation's script.
    (("use_vllm", "lora_model"), "vLLM took no adapter", "merge it first: hanlin merge"),
    (("use_vllm", "load_in_8bit"), "vLLM took no quantised weights", "remove one of the two"),
    (("use_vllm", "load_in_4bit"), "vLLM took no quantised weights", "remove one of the two"),
    (("use_vllm", "only_cpu"), "vLLM needed a GPU", "remove one of the two"),
    (("use_vllm", "guidance_scale"), "vLLM had no guidance", "remove one of the two"),
    (("use_vllm", "speculative_sampling"), "vLLM had no speculative sampling", "remove one of the two"),
    (("load_in_8bit", "load_in_4bit"), "weights have either 8 or 4 bits", "remove one of the two"),
    (("only_cpu", "load_in_8bit"), "quantised weights need a GPU", "remove one of the two"),
    (("only_cpu", "load_in_4bit"), "quantised weights need a GPU", "remove one of the two"),
    (
        ("draft_model_load_in_8bit", "draft_model_load_in_4bit"),
        "weights have either 8 or 4 bits",
        "remove one of the two",
    ),
)


def _answering(argv: list[str]) -> Call:
    """The inference script: a file of prompts, or with --interactive a chat; --with_prompt puts the template on."""
    positional, pairs = split(argv)
    asked = {name for name, words in pairs if _asks(name, words)}
    for together, problem, mend in _REJECTED:
        if asked.issuperset(together):
            raise UserError(f"--{together[0]}", f"and --{together[1]} are both given: {problem}", mend=mend)
    if "speculative_sampling" in asked and "draft_base_model" not in asked:
        raise UserError("--speculative_sampling", "needs a draft model, and --draft_base_model is not given")
    dropped = {"with_prompt", "interactive"}
    notices = []
    if "only_cpu" in asked:
        dropped.add("gpus")  # as before: the processor wins
    if "interactive" in asked:
        ignored = asked & {"data_file", "predictions_file"}
        dropped |= ignored
        notices += [f"--{name}: has no effect with --interactive" for name in sorted(ignored)]
        notices.append("--interactive: the chat now keeps what was said; /clear starts anew, an empty line ends")
    elif not asked & {"data_file", "prompts", "prompt"}:
        pairs.append(("prompt", [BUILT_IN_QUESTION]))
    defaults: dict[str, Any] = {"template": "published" if "with_prompt" in asked else "none"}
    if "interactive" in asked:
        defaults["end_on_empty_line"] = True
    else:
        defaults["output"] = "./predictions.json"
    words = [*positional, *_words([pair for pair in pairs if pair[0] not in dropped])]
    return Call("chat" if "interactive" in asked else "infer", words, _constant(defaults), notices)


def _asks(name: str, words: list[str]) -> bool:
    """Whether a flag asks for something: bare, or with a value that is not the one of doing nothing."""
    neutral = {"guidance_scale": ("1", "1.0")}.get(name, ("false",))
    return not words or words[0].lower() not in neutral


def _words(pairs: Pairs) -> list[str]:
    return [word for name, words in pairs for word in (f"--{name}", *words)]


ENTRY_POINTS: Mapping[str, Callable[[list[str]], Call]] = {
    "run_clm_pt_with_peft.py": _pre_training,
    "run_clm_sft_with_peft.py": _tuning,
    "merge_llama_with_chinese_lora_low_mem.py": _merging("pth"),
    "merge_llama2_with_chinese_lora_low_mem.py": _merging("huggingface"),
    "merge_tokenizers.py": _merging_tokenizers,
    "inference_hf.py": _answering,
}
"""File name of each entry point, to what makes today's call of its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTokenizers:
    """Extend a LLaMA tokenizer by the pieces of a Chinese SentencePiece model, as merge_tokenizers.py did."""

    llama_tokenizer_dir: str
    """Folder of the LLaMA tokenizer."""
    chinese_sp_model_file: str = "./chinese_sp.model"
    """SentencePiece model whose pieces are added."""
