"""A tiny base model with its own tokenizer, and small data, for runs through the real verbs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from rich.console import Console

from hanlin.commands import pt, sft
from hanlin.config.fields import build
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.train.run import Outcome
from tiny import tiny_llama

TEXT = "the quick brown fox jumps over a lazy dog while seven small birds sing in old trees near water"
WORDS = TEXT.split()

torch.set_num_threads(1)


def sentence(seed: int, length: int) -> str:
    """A made-up sentence: a function of its arguments."""
    return " ".join(WORDS[(seed * 7 + i * (seed % 5 + 1)) % len(WORDS)] for i in range(length))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 320 pieces (hidden 32, 2 layers) with a byte-fallback tokenizer; the weights are small, so it
    can learn."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence(i, 12) for i in range(200)]),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        minloglevel=2,
    )
    directory = tiny_llama(tmp_path_factory.mktemp("runs") / "base", vocab_size=320)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True}))
    return directory


@pytest.fixture(scope="session")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 Alpaca records with answers of 1 to 12 words."""
    rows = [
        {"instruction": sentence(i, 3 + i % 4), "input": None if i % 3 else "", "output": sentence(i + 1, 1 + i % 12)}
        for i in range(48)
    ]
    path = tmp_path_factory.mktemp("data") / "alpaca.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 lines of text, each a document."""
    path = tmp_path_factory.mktemp("corpus") / "lines.txt"
    path.write_text("\n".join(sentence(i, 4 + i % 17) for i in range(60)) + "\n")
    return path


Run = Callable[..., Outcome]


@pytest.fixture
def run_sft(base: Path, instructions: Path, tmp_path: Path) -> Run:
    """Tune the tiny base on the small records: a few steps of LoRA without dropout, unless told otherwise."""

    def run(name: str, **changes: Any) -> Outcome:
        settings: dict[str, Any] = {
            "model": str(base),
            "dataset": (str(instructions),),
            "template": "alpaca",
            "output_dir": str(tmp_path / name),
            "data_cache_dir": str(tmp_path / "cache"),
            "max_length": 256,
            "lora_dropout": 0.0,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1.0,
            "report_to": ("none",),
            **changes,
        }
        trainer = settings.pop("trainer", {})
        return sft.train(build(SftConfig, settings, trainer=trainer), Console(quiet=True))

    return run


@pytest.fixture
def run_pt(base: Path, corpus: Path, tmp_path: Path) -> Run:
    """Pre-train the tiny base on the small corpus in blocks of 64 tokens."""

    def run(name: str, **changes: Any) -> Outcome:
        settings: dict[str, Any] = {
            "model": str(base),
            "dataset": (str(corpus),),
            "output_dir": str(tmp_path / name),
            "data_cache_dir": str(tmp_path / "cache"),
            "max_length": 64,
            "lora_dropout": 0.0,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "logging_steps": 1.0,
            "report_to": ("none",),
            **changes,
        }
        return pt.train(build(PtConfig, settings), Console(quiet=True))

    return run
