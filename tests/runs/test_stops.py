"""The token at which a run teaches answers to end reaches every program: plain ``generate`` stops there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

from hanlin.cli import main
from hanlin.infer.engine import open_engine
from hanlin.vocab.tokenizer import TextTokenizer
from tiny import tiny_llama

END, EOS = 321, 2


@pytest.fixture
def chat_base(base: Path, tmp_path: Path) -> Path:
    """The small base with the marks of a chat model behind its vocabulary, and none of them taught."""
    folder = tiny_llama(tmp_path / "chat-base", vocab_size=328)
    model = (base / "tokenizer.model").read_bytes()
    TextTokenizer.from_sentencepiece(model, special_tokens=("<|im_start|>", "<|im_end|>")).save(folder)
    return folder


def sft(model: Path, data: Path, out: Path, *more: str) -> None:
    status = main(
        ["sft", "--model", str(model), "--dataset", str(data), "--template", "yi", "--output_dir", str(out),
         "--max_length", "256", "--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none", *more]
    )  # fmt: skip
    assert status == 0


def eos_of(folder: Path) -> Any:
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


class EndAt(LogitsProcessor):
    """Makes the model say ``token`` as its third word, and another one before and after."""

    def __init__(self, token: int, start: int) -> None:
        self.token, self.start = token, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said = self.token if input_ids.shape[1] - self.start == 2 else 300
        return torch.full_like(scores, -100.0).index_fill(1, torch.tensor([said]), 0.0)


def plain_length(folder: Path) -> int:
    """New tokens of a plain model that says END as its third."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 40, 41]])
    processor: Any = [EndAt(END, ids.shape[1])]
    output = model.generate(ids, max_new_tokens=8, do_sample=False, logits_processor=processor, pad_token_id=0)
    return int(output.shape[1] - ids.shape[1])


def test_an_adapter_records_it_and_merge_writes_it(
    chat_base: Path, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft(chat_base, instructions, tmp_path / "out")
    said = " ".join(capsys.readouterr().out.split())
    assert f'the trained or merged model says "eos_token_id": [{END}, {EOS}]' in said
    adapter = tmp_path / "out" / "sft_lora_model"
    assert json.loads((adapter / "hanlin.json").read_text())["stop"] == ["<|im_end|>"]
    merged = tmp_path / "merged"
    assert main(["merge", str(adapter), "--output_dir", str(merged)]) == 0
    assert eos_of(merged) == [END, EOS], "the template's first, then what the base had"
    assert plain_length(merged) == 3
    assert plain_length(chat_base) == 8, "the base knows nothing of it"
    for folder in (adapter, merged):  # also where no template says so
        assert open_engine(str(folder), template="none").stop_ids == [END, EOS]
    # A second training on the merged model, with another stop: the new one first.
    sft(merged, instructions, tmp_path / "second", "--template", "alpaca", "--on_template_difference", "named")
    assert main(["merge", str(tmp_path / "second"), "--output_dir", str(tmp_path / "again")]) == 0
    assert eos_of(tmp_path / "again") == [EOS, END]


def test_merge_writes_it_where_the_base_has_no_settings(chat_base: Path, instructions: Path, tmp_path: Path) -> None:
    (chat_base / "generation_config.json").unlink()
    sft(chat_base, instructions, tmp_path / "out")
    assert main(["merge", str(tmp_path / "out"), "--output_dir", str(tmp_path / "merged")]) == 0
    values = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert values["eos_token_id"] == [END, EOS] and values["bos_token_id"] == 1
    assert plain_length(tmp_path / "merged") == 3


def test_full_training_writes_it_in_checkpoints_too(chat_base: Path, instructions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sft(chat_base, instructions, out, "--tuner", "full", "--save_strategy", "steps", "--save_steps", "1")
    for folder in (out, out / "checkpoint-1"):
        assert eos_of(folder) == [END, EOS]
        assert plain_length(folder) == 3


def test_pretraining_keeps_what_the_base_was_taught(
    chat_base: Path, instructions: Path, corpus: Path, tmp_path: Path
) -> None:
    tuned, out = tmp_path / "tuned", tmp_path / "pt"
    sft(chat_base, instructions, tuned, "--tuner", "full")
    status = main(
        ["pt", "--model", str(tuned), "--dataset", str(corpus), "--output_dir", str(out), "--max_length", "64",
         "--max_steps", "3", "--per_device_train_batch_size", "2", "--report_to", "none"]
    )  # fmt: skip
    assert status == 0
    assert json.loads((out / "pt_lora_model" / "hanlin.json").read_text())["stop"] == ["<|im_end|>"]
    assert main(["merge", str(out), "--output_dir", str(tmp_path / "merged")]) == 0
    assert eos_of(tmp_path / "merged") == [END, EOS]


def test_a_template_that_ends_in_eos_changes_nothing(base: Path, instructions: Path, tmp_path: Path) -> None:
    sft(base, instructions, tmp_path / "out", "--template", "alpaca")
    assert main(["merge", str(tmp_path / "out"), "--output_dir", str(tmp_path / "merged")]) == 0
    assert eos_of(tmp_path / "merged") == EOS
