"""Equalities that a user assumes of a training run, through the real verbs on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanlin.errors import UserError
from hanlin.tokens.store import TokenStore
from hanlin.types import IGNORE_INDEX
from outcomes import losses, weights

# Sums of a few hundred float32 numbers of size 10, added in another order.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def test_accumulating_small_batches_is_one_large_batch(run_sft: Any) -> None:
    """The rows of a batch have 1 to 12 answer words: a mean of means would differ visibly."""
    large = run_sft("large", per_device_train_batch_size=8)
    small = run_sft("small", per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert losses(large) == pytest.approx(losses(small), rel=1e-5)
    theirs = weights(small)
    for name, tensor in weights(large).items():
        torch.testing.assert_close(tensor, theirs[name], **ROUNDING)


def test_the_loss_is_the_mean_over_trained_tokens(run_sft: Any, base: Path, tmp_path: Path) -> None:
    """The first logged loss equals cross entropy of plain transformers over all trained tokens of the batch."""
    outcome = run_sft("run", per_device_train_batch_size=48, max_steps=1)
    model = AutoModelForCausalLM.from_pretrained(base)
    store = TokenStore.open(next((tmp_path / "cache").iterdir()))
    assert store is not None
    total, count = 0.0, 0
    for index in range(len(store)):
        row = store.row(index)
        with torch.no_grad():
            logits = model(torch.tensor(row.ids[None].astype("int64"))).logits[0, :-1]
        targets = torch.tensor(row.labels[1:].astype("int64"))
        total += float(F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE_INDEX))
        count += int((targets != IGNORE_INDEX).sum())
    assert losses(outcome)[0] == pytest.approx(total / count, rel=1e-5)


def test_evaluation_does_not_change_the_trajectory(run_sft: Any) -> None:
    """With dropout, so that a random number drawn or a mode changed by the evaluation would be seen."""
    settings = {"validation_split_percentage": 0.2, "max_steps": 6, "lora_dropout": 0.1}
    without = run_sft("without", do_eval=False, **settings)
    with_it = run_sft("with", eval_steps=1.0, **settings)
    assert losses(without) == losses(with_it)
    theirs = weights(with_it)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(without).items())
    assert sum("eval_loss" in entry for entry in with_it.history) >= 6


def test_evaluation_is_exact_over_tokens(run_sft: Any) -> None:
    """Batches of 1 and of 5 rows give the same evaluation; a mean of batch means would not."""
    one = run_sft("one", validation_split_percentage=0.25, per_device_eval_batch_size=1, max_steps=1)
    five = run_sft("five", validation_split_percentage=0.25, per_device_eval_batch_size=5, max_steps=1)
    for name in ("eval_loss", "eval_accuracy", "eval_bits_per_byte", "eval_tokens"):
        assert one.evaluation[name] == pytest.approx(five.evaluation[name], rel=1e-5), name
    assert one.evaluation["eval_perplexity"] == pytest.approx(math.exp(one.evaluation["eval_loss"]))


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"tuner": "full"}], ids=["lora with dropout", "full"])
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(run_sft: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run_sft("whole", max_steps=8, save_steps=4.0, **changes)
    # The same run, stopped by force after the checkpoint of step 4 was made.
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for name in ("checkpoint-8", "sft_lora_model"):
        shutil.rmtree(tmp_path / "broken" / name, ignore_errors=True)
    resumed = run_sft("broken", max_steps=8, save_steps=4.0, resume_from_checkpoint="last", **changes)
    assert losses(resumed) == losses(whole)
    theirs = weights(whole)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(resumed).items())
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == list(range(1, 9))


def test_resuming_in_a_later_epoch_goes_on_with_the_order_of_that_epoch(run_sft: Any, tmp_path: Path) -> None:
    """48 rows in batches of 5 are 10 steps an epoch, the last with 3 rows."""
    settings = {"per_device_train_batch_size": 5, "save_steps": 13.0, "max_steps": 16}
    whole = run_sft("whole", **settings)
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoint-16")
    resumed = run_sft("broken", resume_from_checkpoint="last", **settings)
    assert losses(resumed) == losses(whole)


def test_each_row_is_trained_once_an_epoch(run_sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of every batch, written down as they are collated; epochs differ in order."""
    import hanlin.train.run as run

    seen: list[int] = []
    collate = run.collate

    def watch(features: Any, **options: Any) -> Any:
        seen.extend(hash(feature["input_ids"].tobytes()) for feature in features if len(feature["input_ids"]) > 1)
        return collate(features, **options)

    monkeypatch.setattr(run, "collate", watch)
    run_sft("run", per_device_train_batch_size=5, max_steps=-1, num_train_epochs=2.0)
    first, second = seen[:48], seen[48:]
    assert sorted(first) == sorted(second)
    assert first != second
    assert len(second) == 48


def test_a_run_in_progress_is_continued_without_a_flag(run_sft: Any, tmp_path: Path) -> None:
    run_sft("run", max_steps=2, save_steps=2.0)
    outcome = run_sft("run", max_steps=4, save_steps=2.0)
    assert [entry["step"] for entry in outcome.history if "loss" in entry] == [1, 2, 3, 4]


def test_gradient_checkpointing_changes_nothing(run_sft: Any) -> None:
    plain = run_sft("plain")
    checkpointed = run_sft("checkpointed", gradient_checkpointing=True)
    assert losses(plain) == pytest.approx(losses(checkpointed), rel=1e-6)


def test_fp16_on_a_cpu_is_bf16_and_said_in_one_line(
    base: Path, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hanlin.cli import main

    words = f"sft --model {base} --dataset {instructions} --template alpaca --output_dir {tmp_path / 'run'} --fp16"
    assert main([*words.split(), "--torch_dtype", "float16", "--max_steps", "1", "--report_to", "none"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--fp16")]
    assert len(lines) == 1
    assert "bf16 is used instead" in lines[0]
    adapter = load_file(tmp_path / "run" / "sft_lora_model" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


def test_bf16_really_computes_in_another_precision(run_sft: Any) -> None:
    exact, mixed = losses(run_sft("exact")), losses(run_sft("mixed", bf16=True))
    assert exact != mixed
    assert exact == pytest.approx(mixed, rel=2e-2)


def test_a_run_that_continues_must_be_the_same_run(run_sft: Any) -> None:
    run_sft("run", max_steps=2, save_steps=2.0)
    with pytest.raises(UserError, match="was trained with lora_rank 8, and this run has 4"):
        run_sft("run", max_steps=4, lora_rank=4)
