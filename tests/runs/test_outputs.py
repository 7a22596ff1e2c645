"""What a run leaves, that it can be run again, and that the prepared tokens are neither stale nor made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hanlin.cli import main
from hanlin.model.identity import read_record
from hanlin.tokens.store import TokenStore
from hanlin.train.checkpoint import MANIFEST
from outcomes import losses, weights


def test_a_run_leaves_everything_it_promises(run_sft: Any) -> None:
    outcome = run_sft("run", save_steps=2.0, validation_split_percentage=0.2, report_to=("tensorboard",))
    left = {path.name for path in outcome.output_dir.iterdir()}
    assert left >= {
        "run.yaml", "ledger.jsonl", "metrics.jsonl", "loss.png", "learning_rate.png", "README.md", "runs",
        "train_results.json", "eval_results.json", "all_results.json", "trainer_state.json", "sft_lora_model",
        "checkpoint-2", "checkpoint-4",
    }  # fmt: skip
    adapter = outcome.output_dir / "sft_lora_model"
    names = {path.name for path in adapter.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.model", "tokenizer_config.json"}
    assert json.loads((adapter / "tokenizer_config.json").read_text())["add_bos_token"] is True
    record = read_record(adapter)
    assert record is not None
    assert (record.stage, record.template, record.kind) == ("sft", "alpaca", "adapter")
    assert list((outcome.output_dir / "runs").rglob("events.out.tfevents.*"))
    assert (outcome.output_dir / "loss.png").read_bytes()[:4] == b"\x89PNG"
    entries = [json.loads(line) for line in (outcome.output_dir / "metrics.jsonl").read_text().splitlines()]
    trained = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in trained] == [1, 2, 3, 4]
    assert {"tokens_per_second", "trained_tokens_per_second", "peak_memory_bytes", "grad_norm"} <= trained[0].keys()
    assert "hanlin chat" in (outcome.output_dir / "README.md").read_text()


def test_adapter_files_have_the_published_layout(run_sft: Any) -> None:
    """Specification 1.3: plain key names, no adapter name; whole modules under their own names."""
    outcome = run_sft("run", modules_to_save=("embed_tokens", "lm_head"), lora_target_modules=("q_proj",))
    names = set(load_file(outcome.weights / "adapter_model.safetensors"))
    layers = {f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{h}.weight" for i in (0, 1) for h in "AB"}
    assert names == layers | {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"}
    settings = json.loads((outcome.weights / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA"
    assert settings["task_type"] == "CAUSAL_LM"


def test_the_resolved_settings_run_again_with_the_same_result(run_sft: Any, tmp_path: Path) -> None:
    outcome = run_sft("run", trainer={"adam_beta2": 0.9})
    settings = outcome.output_dir / "run.yaml"
    assert yaml.safe_load(settings.read_text())["trainer"] == {"adam_beta2": 0.9}
    assert main(["sft", str(settings), "--output_dir", str(tmp_path / "again")]) == 0
    theirs = load_file(tmp_path / "again" / "sft_lora_model" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(outcome).items())


def test_a_continued_adapter_keeps_its_settings_and_the_yaml_says_nothing_else(run_sft: Any, tmp_path: Path) -> None:
    first = run_sft("first", lora_rank=4)
    second = run_sft("second", adapter=str(first.output_dir), on_lora_flags="adapter")
    assert losses(second)[-1] < losses(first)[0]
    assert json.loads((second.weights / "adapter_config.json").read_text())["r"] == 4
    assert "lora_rank" not in (second.output_dir / "run.yaml").read_text()
    assert main(["sft", str(second.output_dir / "run.yaml"), "--output_dir", str(tmp_path / "third")]) == 0


def test_full_training_leaves_a_model_that_plain_transformers_loads(run_sft: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outcome = run_sft("run", tuner="full")
    model = AutoModelForCausalLM.from_pretrained(outcome.output_dir)
    assert model.config.use_cache is True
    assert len(AutoTokenizer.from_pretrained(outcome.output_dir)) == model.get_input_embeddings().weight.shape[0]
    record = read_record(outcome.output_dir)
    assert record is not None
    assert record.kind == "model"


def test_pre_training_loses_no_token(run_pt: Any, corpus: Path, base: Path, tmp_path: Path) -> None:
    """Tokens of all blocks, counted by sentencepiece itself, BOS and EOS included; the last short block is there."""
    import sentencepiece

    run_pt("run", num_train_epochs=1.0, max_steps=-1)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    lines = corpus.read_text().splitlines()
    expected = sum(len(processor.encode(line)) + 2 for line in lines)
    store = TokenStore.open(next((tmp_path / "cache").iterdir()))
    assert store is not None
    assert store.num_tokens == expected
    assert store.row(0).ids.tolist() == [1, *processor.encode(lines[0]), 2]
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    blocks = -(-expected // 64)
    assert state["max_steps"] == -(-blocks // 2)


def test_document_policy_of_bos_and_eos(run_pt: Any, tmp_path: Path) -> None:
    run_pt("run", add_eos=False, add_bos=False)
    store = TokenStore.open(next((tmp_path / "cache").iterdir()))
    assert store is not None
    assert not {1, 2} & set(store.row(0).ids.tolist())


def test_prepared_tokens_are_made_once_and_never_stale(run_sft: Any, instructions: Path, tmp_path: Path) -> None:
    """Problem 11 of the specification: data, template and length decide; the name of a file does not."""

    def stores() -> int:
        return len([path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")])

    data = tmp_path / "data.json"
    data.write_text(instructions.read_text())
    run_sft("a", dataset=(str(data),), max_steps=1)
    run_sft("b", dataset=(str(data),), max_steps=1, learning_rate=1e-4)
    assert stores() == 1
    run_sft("c", dataset=(str(data),), max_steps=1, max_length=192)
    run_sft("d", dataset=(str(data),), max_steps=1, template="llama2-zh")
    assert stores() == 3
    rows = json.loads(instructions.read_text())
    rows[0]["output"] += " again"
    data.write_text(json.dumps(rows))
    run_sft("e", dataset=(str(data),), max_steps=1)
    assert stores() == 4


def test_a_changed_chat_template_of_the_same_name_makes_new_tokens(run_sft: Any, base: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(base, own)
    turn = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}"
    for ending in ("{% endfor %}", "\n{% endfor %}"):
        (own / "chat_template.jinja").write_text(turn + ending)
        run_sft(f"run{len(ending)}", model=str(own), template=None, max_steps=1)
    assert len([path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]) == 2


def test_best_and_last_checkpoint_stay(run_sft: Any) -> None:
    """With a learning rate that ruins the model the first evaluation is the best one."""
    outcome = run_sft(
        "run", max_steps=8, save_steps=1.0, eval_steps=1.0, save_total_limit=2, validation_split_percentage=0.2,
        learning_rate=0.3, lr_scheduler_type="constant", warmup_ratio=0.0,
    )  # fmt: skip
    by_step = {entry["step"]: entry["eval_loss"] for entry in outcome.history if "eval_loss" in entry}
    best = min(by_step, key=lambda step: by_step[step])
    assert best != 8
    kept = {path.name for path in outcome.output_dir.glob("checkpoint-*")}
    assert kept == {f"checkpoint-{best}", "checkpoint-8"}
    state = json.loads((outcome.output_dir / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    assert (outcome.output_dir / "checkpoint-8" / MANIFEST).is_file()


def test_rows_trained_and_evaluated_alike_are_said(
    base: Path, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"sft --model {base} --dataset {instructions} --validation_file {instructions} --template alpaca"
    assert main([*words.split(), "--output_dir", str(tmp_path / "o"), "--max_steps", "1", "--report_to", "none"]) == 0
    assert "48 of 48 rows to evaluate are trained on too" in capsys.readouterr().out


def test_without_packing_each_document_is_a_row_and_the_loss_is_the_same(run_pt: Any) -> None:
    """One step over everything: the mean over all tokens of all documents, however they are laid out.

    No document is longer than a block here, but in the stream some continue in the next block and lose their context;
    blocks as long as the whole corpus have no such cut.
    """
    whole = {"per_device_train_batch_size": 100, "max_steps": 1, "max_length": 4096}
    packed = run_pt("packed", **whole)
    alone = run_pt("alone", packing=False, **whole)
    assert losses(packed) == pytest.approx(losses(alone), rel=1e-5)


def test_checkpoints_hold_each_weight_once_and_nothing_pickled_of_ours(run_sft: Any) -> None:
    outcome = run_sft("run", max_steps=2, save_steps=2.0)
    folder = outcome.output_dir / "checkpoint-2"
    names = {path.name for path in folder.iterdir()}
    assert "training_args.bin" not in names
    assert "README.md" not in names, "the library's card says less than ours"
    inner = folder / "sft_lora_model" / "adapter_model.safetensors"
    assert inner.stat().st_ino == (folder / "adapter_model.safetensors").stat().st_ino
    assert inner.stat().st_mode & 0o044 == folder.stat().st_mode & 0o044, "readable by those who can read the folder"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_whole_checkpoints_are_models_that_answer(run_sft: Any) -> None:
    outcome = run_sft("run", max_steps=2, save_steps=2.0, tuner="full")
    folder = outcome.output_dir / "checkpoint-2"
    assert read_record(folder) is not None
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_bits_per_byte_counts_the_text_that_is_trained(run_sft: Any, tmp_path: Path) -> None:
    """Two answers of 3 and 4 bytes: with the last alone trained, 4 bytes are counted, and 7 with both."""
    talk = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "fox"), ("user", "b"))]
    rows = [{"messages": [*talk, {"role": "assistant", "content": "bird"}]}]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for train_on in ("all", "last"):
        run_sft(train_on, dataset=(str(path),), train_on=train_on, max_steps=1)
    found = sorted(
        int(TokenStore.open(path).num_bytes[0]) for path in (tmp_path / "cache").iterdir() if path.name[0] != "."
    )  # type: ignore[union-attr]
    assert found == [4, 7]
