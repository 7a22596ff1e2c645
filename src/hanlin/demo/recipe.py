"""The stages of the demo: the same command lines that a person would type, one after the other.

The sizes and learning rates were found by trying: two layers of 128 learn the task with fewer operations than three or
than wider ones, and steps of a few hundred tokens learn more from a second of CPU time than large ones.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
"""The shipped text: written for this project, or classical and in the public domain."""

TEXT_FOLDER = "text"
"""Folder, below the demo's own, with the copy of the shipped text that the stages read."""

ENGLISH = ("english.txt",)
CHINESE = ("classics.txt", "modern.txt", "facts.txt")
INSTRUCTIONS = "instructions.json"
COPIED = (*ENGLISH, *CHINESE, INSTRUCTIONS)

TEMPLATE, SYSTEM = "llama2-zh", ""
"""Without its system text the template costs 8 tokens a turn instead of 50, which would be most of the tuning time."""

HELD_OUT = DATA / "heldout.txt"
"""Chinese text that no stage trains on; one document a line."""
QUESTIONS = DATA / "questions.json"
"""The questions of the table before and after."""

MODEL = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
NUM_ENGLISH_PIECES = 800
NUM_CHINESE_PIECES = 2000

FAST_STEPS = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """One command line of hanlin."""

    name: str
    """Folder that the stage writes, below the demo's own."""
    title: str
    verb: str
    arguments: tuple[str, ...]
    curve: str = ""
    """Title of its loss curve; empty for stages that do not train."""

    @property
    def command(self) -> str:
        """The line to type."""
        return shlex.join(["hanlin", *self.verb.split(), *self.arguments])


def stages(folder: Path, *, seed: int, fast: bool) -> tuple[Stage, ...]:
    """All stages, writing below ``folder``; each reads what earlier ones wrote."""

    def at(name: str) -> str:
        return str(folder / name)

    def training(epochs: int, rate: str, rows: int, logging: int) -> tuple[str, ...]:
        length = ("--max_steps", str(FAST_STEPS)) if fast else ("--num_train_epochs", str(epochs))
        return (
            *length,
            *("--learning_rate", rate, "--per_device_train_batch_size", str(rows)),
            *("--warmup_ratio", "0.05", "--weight_decay", "0.01", "--adam_beta2", "0.98"),
            *("--logging_steps", str(1 if fast else logging), "--save_strategy", "no", "--report_to", "none"),
            *("--seed", str(seed)),
        )

    adapter = (
        *("--lora_rank", "16", "--lora_alpha", "32", "--lora_dropout", "0"),
        *("--modules_to_save", "embed_tokens,lm_head"),
    )
    english = tuple(at(f"{TEXT_FOLDER}/{name}") for name in ENGLISH)
    chinese = tuple(at(f"{TEXT_FOLDER}/{name}") for name in CHINESE)
    overrides = ",".join(f"{name}={value}" for name, value in MODEL.items())
    return (
        Stage(
            "english-tokenizer",
            "A tokenizer that knows no Chinese",
            "tokenizer train",
            (*english, "--output_dir", at("english-tokenizer"), "--vocab_size", str(NUM_ENGLISH_PIECES)),
        ),
        Stage(
            "english-model",
            "A tiny Llama learns English from nothing",
            "pt",
            (
                *("--model_config", "llama", "--config_overrides", overrides, "--tuner", "full"),
                *("--tokenizer", at("english-tokenizer"), "--dataset", *english, "--max_length", "128"),
                *("--output_dir", at("english-model"), *training(8, "1.5e-3", 2, 5)),
            ),
            curve="English from nothing",
        ),
        Stage(
            "chinese-tokenizer",
            "The vocabulary learns Chinese characters and words",
            "tokenizer extend",
            (
                *(at("english-tokenizer"), "--corpus", *chinese, "--output_dir", at("chinese-tokenizer")),
                *("--vocab_size", str(NUM_CHINESE_PIECES), "--character_coverage", "1"),
            ),
        ),
        Stage(
            "pre-training",
            "The model reads Chinese: continued pre-training",
            "pt",
            (
                *("--model", at("english-model"), "--tokenizer", at("chinese-tokenizer"), *adapter),
                *("--dataset", *chinese, "--max_length", "128"),
                *("--output_dir", at("pre-training"), *training(12, "1.5e-3", 2, 5)),
            ),
            curve="Continued pre-training on Chinese",
        ),
        Stage(
            "chinese-model",
            "Merge the pre-training into the model",
            "merge",
            ("--adapter", at("pre-training/pt_lora_model"), "--output_dir", at("chinese-model")),
        ),
        Stage(
            "tuning",
            "The model learns to answer: instruction tuning",
            "sft",
            (
                *("--model", at("chinese-model"), *adapter, "--template", TEMPLATE, "--system", SYSTEM),
                *("--dataset", at(f"{TEXT_FOLDER}/{INSTRUCTIONS}"), "--max_length", "256"),
                *("--output_dir", at("tuning"), *training(6, "5e-3", 16, 5)),
            ),
            curve="Instruction tuning",
        ),
        Stage(
            "chat-model",
            "Merge the tuning into the model",
            "merge",
            ("--adapter", at("tuning/sft_lora_model"), "--output_dir", at("chat-model")),
        ),
    )
