"""Mistakes of users through the real command line: one line with place, value and mend, status 2, nothing damaged."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hanlin.cli import main
from hanlin.errors import UserError
from hanlin.train import checkpoint
from outcomes import losses
from tiny import tiny_llama


class Verb:
    """Runs ``hanlin sft`` or ``pt`` and returns the one line of its error."""

    def __init__(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.base, self.tmp_path, self.capsys = base, tmp_path, capsys

    def error(self, dataset: Path | str, *words: str, verb: str = "sft") -> str:
        output = self.tmp_path / "output"
        template = ["--template", "alpaca"] if verb == "sft" else []
        argv = [verb, "--model", str(self.base), "--dataset", str(dataset), "--output_dir", str(output), *template]
        status = main([*argv, "--max_steps", "1", "--report_to", "none", *words])
        captured = self.capsys.readouterr()
        assert status == 2, captured.err + captured.out
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        assert not output.exists() or not list(output.glob("checkpoint-*"))
        return captured.err


@pytest.fixture
def verb(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(base, tmp_path, capsys)


GOOD = {"instruction": "say fox", "input": "", "output": "fox"}


def test_malformed_json_names_line_and_column(verb: Verb, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('[\n {"instruction": "a", "input": "", "output": "b"},\n {"instruction" "c"}\n]')
    error = verb.error(path)
    assert f"{path}:3:" in error


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "a", "input": ""}, ["output"]),
        ({"instruction": "a", "input": "", "output": 7}, ["output", "7"]),
        ({"instruction": "a", "input": "", "output": ""}, ["output", "empty"]),
        (["not", "an", "object"], ["object"]),
    ],
    ids=["missing field", "wrong type", "empty answer", "no object"],
)
def test_bad_rows_above_the_limit_stop_before_training(verb: Verb, tmp_path: Path, row: Any, words: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in [GOOD, row, GOOD]))
    error = verb.error(path)
    assert "--max_dropped" in error
    assert f"{path}:2" in error
    assert all(word in error for word in words), error


def test_bad_rows_below_the_limit_are_counted_and_training_goes_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [dict(GOOD, output=f"fox {i}") for i in range(10)]
    path.write_text("".join(json.dumps(item) + "\n" for item in [*rows, dict(GOOD, output="")]))
    argv = f"sft --model {base} --dataset {path} --template alpaca --output_dir {tmp_path / 'o'} --max_steps 1"
    assert main([*argv.split(), "--report_to", "none", "--max_dropped", "0.2"]) == 0
    assert "empty answer" in capsys.readouterr().out
    ledger = [json.loads(line) for line in (tmp_path / "o" / "ledger.jsonl").read_text().splitlines()]
    assert ledger[0]["given"] == 11
    assert ledger[1]["line"] == 11


@pytest.mark.parametrize("verb_name", ["pt", "sft"])
def test_structural_faults_of_files(verb: Verb, tmp_path: Path, verb_name: str) -> None:
    suffix = "txt" if verb_name == "pt" else "json"
    empty = tmp_path / f"empty.{suffix}"
    empty.touch()
    assert "empty" in verb.error(empty, verb=verb_name)
    latin = tmp_path / f"latin.{suffix}"
    latin.write_bytes("caf\xe9 cr\xe8me\n".encode("latin-1"))
    assert "UTF-8" in verb.error(latin, verb=verb_name)
    assert f"{latin}:1" in verb.error(latin, verb=verb_name)
    missing = tmp_path / f"emty.{suffix}"
    assert f"did you mean {empty}" in verb.error(missing, verb=verb_name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.md").write_text("x")
    assert "no data file" in verb.error(folder, verb=verb_name)


def test_a_record_longer_than_the_limit_is_on_the_ledger(verb: Verb, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps([GOOD, dict(GOOD, output="fox " * 500)]))
    error = verb.error(path, "--max_length", "200")
    assert "too long" in error
    assert "answer" in error
    stop = verb.error(path, "--max_length", "200", "--overlong", "error", "--max_dropped", "0.9")
    assert f"{path}[1]" in stop


def test_a_tokenizer_that_does_not_fit_the_model(verb: Verb, tmp_path: Path, instructions: Path) -> None:
    other = tiny_llama(tmp_path / "other", vocab_size=300)
    shutil.copy(verb.base / "tokenizer.model", other)
    shutil.copy(verb.base / "tokenizer_config.json", other)
    # 320 pieces on 300 rows without training the embeddings: the 20 new rows would stay random.
    assert "embed" in verb.error(instructions, "--model", str(other))


def test_an_adapter_that_does_not_fit_the_base(verb: Verb, run_sft: Any, tmp_path: Path, instructions: Path) -> None:
    adapter = run_sft("adapter", max_steps=1).weights
    other = tiny_llama(tmp_path / "other", vocab_size=320, hidden=64)
    shutil.copy(verb.base / "tokenizer.model", other)
    shutil.copy(verb.base / "tokenizer_config.json", other)
    error = verb.error(instructions, "--model", str(other), "--adapter", str(adapter))
    assert "32" in error
    assert "64" in error


def test_adapter_and_lora_flags_together(verb: Verb, run_sft: Any, instructions: Path) -> None:
    adapter = run_sft("adapter", max_steps=1, lora_rank=4).weights
    error = verb.error(instructions, "--adapter", str(adapter), "--lora_rank", "16")
    assert "--lora_rank" in error
    assert "r=4" in error or "4" in error


def test_no_template_and_no_chat_template(base: Path, instructions: Path, tmp_path: Path, capsys: Any) -> None:
    argv = f"sft --model {base} --dataset {instructions} --output_dir {tmp_path / 'o'}"
    assert main(argv.split()) == 2
    assert "alpaca" in capsys.readouterr().err


def test_output_folder_with_other_content(verb: Verb, tmp_path: Path, instructions: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.txt").write_text("years of work")
    assert "--overwrite_output_dir" in verb.error(instructions)
    assert (tmp_path / "output" / "thesis.txt").read_text() == "years of work"


def test_a_disk_that_fills_up_while_saving_leaves_the_last_checkpoint(
    run_sft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hanlin.train.trainer as trainer

    real = checkpoint.seal

    def full_at_step_4(staging: Path, final: Path, *, step: int, fingerprint: Any) -> Any:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(staging))
        return real(staging, final, step=step, fingerprint=fingerprint)

    monkeypatch.setattr(trainer, "seal", full_at_step_4)
    with pytest.raises(UserError, match="no space left"):
        run_sft("run", max_steps=6, save_steps=2.0)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert "checkpoint-2" in left
    assert "checkpoint-4" not in left
    assert not [name for name in left if name.startswith(".saving")]
    assert checkpoint.verify(tmp_path / "run" / "checkpoint-2")[0] is not None
    monkeypatch.undo()
    assert len(losses(run_sft("run", max_steps=6, save_steps=2.0))) == 6


def test_a_broken_checkpoint_is_passed_over(run_sft: Any, tmp_path: Path) -> None:
    run_sft("run", max_steps=4, save_steps=2.0)
    weights = tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.unlink()
    weights.write_bytes(bytes(damaged))
    folder, skipped = checkpoint.find_last(tmp_path / "run")
    assert folder is not None
    assert folder.name == "checkpoint-2"
    assert "does not match its SHA-256" in skipped[0]
    outcome = run_sft("run", max_steps=4, save_steps=2.0)
    assert losses(outcome)


def test_a_loss_that_is_no_number_ends_the_run(run_sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the loss is"):
        run_sft("run", max_steps=8, learning_rate=1e30, max_grad_norm=1e30, warmup_ratio=0.0)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 7424 vs 7316",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
    ids=["torch", "safetensors"],
)
def test_writers_that_know_a_full_disk_only_by_words(
    run_sft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    """The words were seen on a full tmpfs."""
    import torch

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run_sft("run", max_steps=2, save_steps=1.0)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--save_strategy best", "nothing is evaluated"),
        ("--learning_rate nan", "finite number"),
        ("--optim adamw_bnb_8bit", "training settings"),
        ("--optim adamw_torchx", "--optim: is 'adamw_torchx'; expected one of adamw_torch, "),
        ("--optim adamw_torchx", "did you mean adamw_torch?"),
        ("--lr_scheduler_type cosin", "--lr_scheduler_type: is 'cosin'; expected one of linear, cosine"),
        ("--trainable q_prj", "--trainable (--lora_target_modules): the model has no module 'q_prj'"),
        ("--report_to wandb", "training settings"),
    ],
)
def test_settings_that_the_trainer_would_refuse_late(verb: Verb, instructions: Path, words: str, message: str) -> None:
    assert message in verb.error(instructions, *words.split())


def broken(base: Path, folder: Path, what: str) -> Path:
    """A copy of the base that ``what`` happened to."""
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "half a pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        weights = folder / "pytorch_model.bin"
    elif what == "no vocabulary":
        (folder / "tokenizer.model").unlink()
    if what.startswith("half"):
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


BROKEN = [
    ("no config", ["config.json"]),
    ("half a shard", ["model.safetensors: cannot be read", "download or copy it again"]),
    ("half a pickle", ["pytorch_model.bin: cannot be read", "download or copy it again"]),
    ("no vocabulary", ["broken holds", "vocabulary", "tokenizer.model in it"]),
]


@pytest.mark.parametrize(("what", "words"), BROKEN, ids=[what for what, _ in BROKEN])
def test_damaged_folders_are_one_line_for_every_verb(
    verb: Verb, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, words: list[str]
) -> None:
    folder = broken(verb.base, tmp_path / "broken", what)
    error = verb.error(instructions, "--model", str(folder))
    assert all(word in error for word in words), error
    assert main(["infer", str(folder), "--template", "alpaca", "--prompt", "say fox"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert not said.out
    assert all(word in said.err for word in words), said.err


def test_a_template_of_the_users_own_without_a_stop(
    verb: Verb, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from hanlin.template import Template, add_template\n"
        'add_template(Template(name="endless", family="own", source="me", prompt="Q: {user} A:", suffix="."))\n'
        f'MODELS = [{{"id": "own", "path": "{verb.base}", "template": "endless"}}]\n'
    )
    argv = f"sft --model_type own --register {own} --dataset {instructions} --output_dir {tmp_path / 'o'}"
    assert main(argv.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "template endless: suffix holds no stop token" in said

    folder = shutil.copytree(verb.base, tmp_path / "jinja")
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["chat_template"] = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    argv = f"sft --model {folder} --dataset {instructions} --output_dir {tmp_path / 'o'}"
    assert main(argv.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--template" in said


def test_a_register_file_with_an_unknown_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("id: own\nhuggingface: a/b\ntemplat: alpaca\n")
    for argv in (f"models --register {own}", f"infer --model_type own --register {own} --prompt x"):
        assert main(argv.split()) == 2
        said = capsys.readouterr().err
        assert said == f"hanlin: {own}:3: an entry has no field 'templat'; did you mean template?\n"


def test_an_unknown_model_is_told_before_torch_is_imported() -> None:
    code = (
        "import sys; from hanlin.cli import main\n"
        "status = main(['infer', '--model_type', 'qwen-7b-cat', '--prompt', 'x'])\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "2 False\n"
    assert "the nearest are qwen-7b-chat" in done.stderr
    assert done.stderr.count("\n") == 1
