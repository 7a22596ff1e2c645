"""Starting again: a finished run, changed settings, another kind of run in the same folder, an evaluation beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.errors import UserError
from hanlin.model.adapter_files import find_adapter
from hanlin.train import checkpoint
from outcomes import losses, weights


def test_a_finished_run_is_left_alone(run_sft: Any, tmp_path: Path) -> None:
    first = run_sft("run", max_steps=3, save_steps=3.0)
    before = weights(first)
    results = (tmp_path / "run" / "train_results.json").read_text()
    for _ in range(2):
        again = run_sft("run", max_steps=3, save_steps=3.0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(again).items())
    assert (tmp_path / "run" / "train_results.json").read_text() == results
    assert [step for step, _ in checkpoint.list_checkpoints(tmp_path / "run")] == [3]
    longer = run_sft("run", max_steps=5, save_steps=3.0)
    assert [entry["step"] for entry in longer.history if "loss" in entry] == [1, 2, 3, 4, 5]


def test_a_run_stopped_before_its_weights_were_written_gets_them(run_sft: Any, tmp_path: Path) -> None:
    import shutil

    first = run_sft("run", max_steps=3, save_steps=3.0)
    before = weights(first)
    shutil.rmtree(first.weights)
    again = run_sft("run", max_steps=3, save_steps=3.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(again).items())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"max_grad_norm": 5.0}, "max_grad_norm"),
        ({"bf16": True}, "bf16"),
        ({"trainer": {"data_seed": 7}}, "data_seed"),
        ({"trainer": {"adam_beta2": 0.5}}, "adam_beta2"),
        ({"warmup_ratio": 0.5}, "warmup_steps"),
    ],
)
def test_a_changed_setting_is_not_passed_over(run_sft: Any, changes: dict[str, Any], name: str) -> None:
    run_sft("run", max_steps=2, save_steps=2.0)
    with pytest.raises(UserError, match=f"was trained with {name} "):
        run_sft("run", max_steps=4, save_steps=2.0, **changes)


def test_data_seed_zero_is_a_seed(run_sft: Any) -> None:
    assert losses(run_sft("a", trainer={"data_seed": 0})) != losses(run_sft("b"))


def test_a_new_run_of_another_kind_leaves_no_weights_of_the_old_one(run_sft: Any, tmp_path: Path) -> None:
    run_sft("run", tuner="full", max_steps=1)
    run_sft("run", max_steps=1, overwrite_output_dir=True)
    assert not (tmp_path / "run" / "config.json").exists()
    assert find_adapter(tmp_path / "run").name == "sft_lora_model"
    run_sft("run", tuner="full", max_steps=1, overwrite_output_dir=True)
    with pytest.raises(UserError, match="holds no adapter"):
        find_adapter(tmp_path / "run")


def test_an_evaluation_in_the_folder_of_a_run_leaves_its_record_alone(run_sft: Any, tmp_path: Path) -> None:
    run_sft("run", validation_split_percentage=0.2, max_steps=2)
    names = ("run.yaml", "README.md", "trainer_state.json", "all_results.json", "metrics.jsonl", "ledger.jsonl")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    outcome = run_sft("run", validation_split_percentage=0.4, do_train=False, do_eval=True)
    assert outcome.evaluation["eval_samples"] == 20
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names} == before
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_samples"] == 20


def test_nan_weights_are_not_saved_and_good_checkpoints_stay(run_sft: Any, tmp_path: Path) -> None:
    """The loss is logged after the checkpoint: the weights themselves are looked at."""
    settings = {"save_steps": 2.0, "logging_steps": 100.0, "logging_first_step": False, "save_total_limit": 1}
    run_sft("run", max_steps=2, **settings)
    with pytest.raises(UserError, match="not finite"):
        run_sft("broken", max_steps=6, learning_rate=1e30, max_grad_norm=1e30, warmup_ratio=0.0, **settings)
    assert not list((tmp_path / "broken").glob("checkpoint-*"))
    assert not (tmp_path / "broken" / "sft_lora_model").exists()


def test_the_best_evaluation_is_saved_though_no_checkpoint_was_due(run_sft: Any) -> None:
    outcome = run_sft(
        "run", max_steps=8, save_steps=8.0, eval_steps=1.0, validation_split_percentage=0.2,
        learning_rate=0.3, lr_scheduler_type="constant", warmup_ratio=0.0,
    )  # fmt: skip
    by_step = {entry["step"]: entry["eval_loss"] for entry in outcome.history if "eval_loss" in entry}
    best = min(by_step, key=lambda step: by_step[step])
    assert best not in (8,)
    assert (outcome.output_dir / f"checkpoint-{best}").is_dir()


def test_clean_validation_rows_do_not_hide_bad_training_rows(run_sft: Any, tmp_path: Path) -> None:
    good = {"instruction": "say", "input": "", "output": "fox"}
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_text("".join(json.dumps(dict(good, output="" if i < 2 else "fox")) + "\n" for i in range(40)))
    held.write_text("".join(json.dumps(good) + "\n" for _ in range(400)))
    with pytest.raises(UserError, match="2 of 40 rows"):
        run_sft("run", dataset=(str(train),), validation_file=(str(held),))


def test_a_ledger_from_the_cache_names_the_files_of_today(run_sft: Any, tmp_path: Path) -> None:
    rows = [{"instruction": "say", "input": "", "output": "" if i == 3 else "fox"} for i in range(10)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(text)
        run_sft(f"run-{name}", dataset=(str(tmp_path / name / "rows.jsonl"),), max_dropped=0.5, max_steps=1)
    entries = (tmp_path / "run-two" / "ledger.jsonl").read_text().splitlines()
    assert json.loads(entries[1])["file"] == str(tmp_path / "two" / "rows.jsonl")


def test_bits_per_byte_do_not_depend_on_the_length_of_blocks(run_pt: Any, tmp_path: Path) -> None:
    """Every token of a document but its first is a target once, however often the document is cut."""
    path = tmp_path / "long.txt"
    path.write_text("\n".join("the quick brown fox jumps over a lazy dog " * 6 for _ in range(20)) + "\n")
    settings = {"dataset": (str(path),), "validation_split_percentage": 0.5, "do_train": False, "do_eval": True}
    tokens = {run_pt(f"l{n}", max_length=n, **settings).evaluation["eval_tokens"] for n in (16, 64, 512)}
    assert len(tokens) == 1
