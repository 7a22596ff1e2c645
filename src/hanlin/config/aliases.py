"""Spellings of older tools, in one table: published command lines run unchanged.

Sources: the two older command lines restated in the project's specification (their flag tables), and flags that
transformers itself renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alias:
    """An older spelling of ``name``. ``value`` turns the words that follow it into the words of today's flag."""

    name: str
    value: Callable[[list[str]], list[str]] | None = None
    notice: str = ""


def _constant(*, true: str, false: str) -> Callable[[list[str]], list[str]]:
    """A boolean flag of old that chose between two values of today."""
    return lambda words: [false if words and words[0].lower() in ("false", "0", "no") else true]


ALIASES: dict[str, tuple[Alias, ...]] = {
    # Each older name lists today's candidates; the first that the verb has is meant.
    "model_name_or_path": (Alias("model"),),
    "model_id_or_path": (Alias("model"),),
    "base_model": (Alias("model"),),
    "model_path": (Alias("model"),),
    "model_revision": (Alias("revision"),),
    "tokenizer_name_or_path": (Alias("tokenizer"),),
    "tokenizer_name": (Alias("tokenizer"),),
    "tokenizer_path": (Alias("tokenizer"),),
    "config_name": (Alias("model_config"),),
    "model_type": (Alias("model_config"),),
    "torch_dtype": (Alias("dtype"),),
    "use_flash_attention_2": (Alias("attn_implementation", _constant(true="flash_attention_2", false="sdpa")),),
    "flash_attn": (Alias("attn_implementation", _constant(true="flash_attention_2", false="sdpa")),),
    "dataset_dir": (Alias("dataset"),),
    "train_file": (Alias("dataset"),),
    "val_dataset": (Alias("validation_file"),),
    "max_seq_length": (Alias("max_length"),),
    "block_size": (Alias("max_length"),),
    "batch_size": (Alias("per_device_train_batch_size"), Alias("batch_size")),
    "eval_batch_size": (Alias("per_device_eval_batch_size"),),
    "evaluation_strategy": (Alias("eval_strategy"),),
    "peft_path": (Alias("adapter"),),
    "lora_model": (Alias("adapter"),),
    "ckpt_dir": (Alias("adapter"),),
    "trainable": (Alias("lora_target_modules"),),
    "lora_r": (Alias("lora_rank"),),
    "full_finetuning": (Alias("tuner", _constant(true="full", false="lora")),),
    "template_type": (Alias("template"),),
    "system_prompt": (Alias("system"),),
    "data_file": (Alias("prompts"),),
    "predictions_file": (Alias("output"),),
    "llama_tokenizer_dir": (Alias("tokenizer"),),
    "chinese_sp_model_file": (Alias("pieces_from"),),
    "no_cuda": (Alias("use_cpu"),),
    "only_cpu": (Alias("use_cpu"), Alias("device", _constant(true="cpu", false="auto"))),
}

RETIRED: dict[str, str] = {
    "save_safetensors": "weights are always safetensors here, and every verb reads them; the flag changes nothing",
    "overwrite_cache": "prepared tokens are keyed by content, tokenizer and settings, so a stale cache cannot be read",
    "keep_linebreaks": "the flag was accepted and ignored by the older tool; --document chooses what a document is",
    "dataset_config_name": "the flag was accepted and ignored by the older tool",
    "streaming": "the flag was accepted and ignored by the older tool; files are always read as a stream",
    "use_fast_tokenizer": "SentencePiece itself encodes, so the choice no longer exists",
    "use_auth_token": "the hub client uses your own login",
    "force_resize_embeddings": "embeddings always grow before the adapter is attached, as the older tool came to do",
    "debug_mode": "name one file with --dataset instead",
    "double_quant": "it belongs to --load_in_kbits 4, which this version does not train",
    "quant_type": "it belongs to --load_in_kbits 4, which this version does not train",
    "low_cpu_mem_usage": "weights are always loaded shard by shard",
    "logging_strategy": "logging always counts steps; --logging_steps says how many",
    "local_rank": "the launcher says it through its environment variables",
}
"""Flags that are understood and change nothing, with the sentence that says why."""
