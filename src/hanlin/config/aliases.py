"""Spellings of older tools, in one table: published command lines run unchanged.

Sources: the two older command lines restated in the project's specification (their flag tables), and flags that
transformers itself renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hanlin.errors import UserError


@dataclass(frozen=True, slots=True)
class Alias:
    """An older spelling of ``name``. ``value`` turns the words that follow it into the words of today's flag."""

    name: str
    value: Callable[[list[str]], list[str]] | None = None
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A flag that asks for something this version does not do; only values that ask for nothing pass."""

    reason: str
    mend: str
    harmless: tuple[str, ...] = ("false", "no", "0", "none")
    beside: str = ""
    """The flag is meant for verbs that have this flag; others do not know it."""

    def check(self, place: str, words: list[str]) -> None:
        """Raises UserError unless ``words`` ask for nothing. A bare flag asks."""
        if not words or not all(word.lower() in self.harmless for word in words):
            raise UserError(place, self.reason, mend=self.mend)


def _constant(*, true: str, false: str) -> Callable[[list[str]], list[str]]:
    """A boolean flag of old that chose between two values of today."""
    return lambda words: [false if words and words[0].lower() in ("false", "0", "no") else true]


def _device(words: list[str]) -> list[str]:
    """The older list of GPUs, of which a model here takes one. The first is also the default, which needs no GPU."""
    gpus = [part for word in words for part in word.split(",") if part]
    if len(gpus) != 1 or not gpus[0].isdigit():
        raise UserError(
            "--gpus",
            f"is {','.join(gpus) or 'empty'}",
            expected="the number of one GPU: this version holds a model on one device",
        )
    return ["auto"] if gpus == ["0"] else [f"cuda:{gpus[0]}"]


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
    "model_cache_dir": (Alias("cache_dir"),),
    "torch_dtype": (Alias("dtype"),),
    "use_flash_attention_2": (Alias("attn_implementation", _constant(true="flash_attention_2", false="sdpa")),),
    "flash_attn": (
        Alias(
            "attn_implementation",
            _constant(true="flash_attention_2", false="sdpa"),
            notice="the name that --use_flash_attention_2 had from August to November 2023; it is taken as that",
        ),
    ),
    "dataset_dir": (Alias("dataset"),),
    "train_file": (Alias("dataset"),),
    "val_dataset": (Alias("validation_file"),),
    "max_seq_length": (Alias("max_length"),),
    "block_size": (Alias("max_length"),),
    "batch_size": (Alias("per_device_train_batch_size"), Alias("batch_size")),
    "eval_batch_size": (Alias("per_device_eval_batch_size"),),
    "per_gpu_train_batch_size": (Alias("per_device_train_batch_size"),),
    "per_gpu_eval_batch_size": (Alias("per_device_eval_batch_size"),),
    "push_to_hub_model_id": (Alias("hub_model_id"),),
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
    "gpus": (Alias("device", _device),),
    "only_cpu": (Alias("use_cpu"), Alias("device", _constant(true="cpu", false="auto"))),
}

_IGNORED = "the older tool accepted the flag and ignored it"
_BACKENDS = "the back end it chose is gone from the trainer"
_FOR_4BIT = "it belongs to --load_in_kbits 4, which this version does not train"
_FOR_DRAFT = "it belongs to --speculative_sampling, which this version does not do"

RETIRED: dict[str, str] = {
    "save_safetensors": "weights are always safetensors here, and every verb reads them; the flag changes nothing",
    "force_resize_embeddings": "embeddings always grow before the adapter is attached, as the older tool came to do",
    "overwrite_cache": "prepared tokens are keyed by content, tokenizer and settings, so a stale cache cannot be read",
    "keep_linebreaks": f"{_IGNORED}; --document chooses what a document is",
    "dataset_config_name": _IGNORED,
    "streaming": f"{_IGNORED}; files are always read as a stream",
    "use_fast_tokenizer": "SentencePiece itself encodes, so the choice no longer exists",
    "use_auth_token": "the hub client uses your own login",
    "double_quant": _FOR_4BIT,
    "quant_type": _FOR_4BIT,
    "low_cpu_mem_usage": "weights are always loaded shard by shard",
    "offload_dir": "weights are merged shard by shard, so nothing has to be moved to the disk meanwhile",
    "logging_dir": "TensorBoard events lie in --output_dir",
    "draft_k": _FOR_DRAFT,
    "draft_base_model": _FOR_DRAFT,
    "draft_lora_model": _FOR_DRAFT,
    "draft_model_load_in_8bit": _FOR_DRAFT,
    "draft_model_load_in_4bit": _FOR_DRAFT,
    "preprocessing_num_workers": "the tokenizer encodes batches on all cores by itself",
    # Fields of the trainer that transformers 5 no longer has.
    "group_by_length": "the trainer no longer offers it",
    "include_tokens_per_second": "tokens per second are always shown",
    "split_batches": "every process reads its own rows",
    "dispatch_batches": "every process reads its own rows",
    "fp16_opt_level": _BACKENDS,
    "fp16_backend": _BACKENDS,
    "half_precision_backend": _BACKENDS,
    "use_ipex": _BACKENDS,
    "jit_mode_eval": _BACKENDS,
    "xpu_backend": _BACKENDS,
    "use_mps_device": "an Apple GPU is used where there is one",
}
"""Flags that are understood and change nothing, with the sentence that says why."""

_SECRET = Refused(
    "a token given here would end in the process list and in run.yaml",
    "log in once with the hub's own client (hf auth login)",
)

REFUSED: dict[str, Refused] = {
    # Fields of the trainer that would be accepted and then do nothing, or harm.
    "hub_token": _SECRET,
    "push_to_hub_token": _SECRET,
    "train_sampling_strategy": Refused(
        "the order of the rows is a function of the seed here, and grouping by length is not in this version",
        "leave it out",
        harmless=("random",),
    ),
    "use_liger_kernel": Refused(
        "the loss is computed in chunks on trained tokens already, and its kernels are not in this version",
        "leave it out",
    ),
    "debug_mode": Refused(
        "trained on the first text file alone, and this version wants it named", "name one file with --dataset"
    ),
    "load_in_8bit": Refused(
        "quantised weights are not in this version", "leave it out; --dtype bfloat16 halves the memory"
    ),
    "load_in_4bit": Refused(
        "quantised weights are not in this version", "leave it out; --dtype bfloat16 halves the memory"
    ),
    "use_vllm": Refused("vLLM is not in this version", "leave it out; --batch_size answers several prompts at a time"),
    "speculative_sampling": Refused(
        "speculative sampling is not in this version", "leave it and the --draft_* flags out; the answers are the same"
    ),
    "guidance_scale": Refused(
        "classifier-free guidance is not in this version",
        "leave it out, or give 1, which is no guidance",
        harmless=("1", "1.0"),
        beside="max_new_tokens",
    ),
    "negative_prompt": Refused(
        "classifier-free guidance is not in this version", "leave it out", harmless=(), beside="max_new_tokens"
    ),
    "use_ntk": Refused("NTK scaling is not in this version", "leave it out and keep within the model's own context"),
    "alpha": Refused(
        "NTK scaling is not in this version",
        "leave it out, or give 1.0, which is no scaling",
        harmless=("1", "1.0"),
        beside="max_new_tokens",
    ),
}
"""Flags whose effect would be missed: their value is looked at, and anything but none is an error."""
