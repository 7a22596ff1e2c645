"""``hanlin sft`` on a checkpoint that carries a chat template of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.model.identity import read_record

OWN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'Question: ' + m.content + '\n' }}"
    "{% else %}{{ 'Answer:' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> Path:
    """The tiny base with a chat template."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(base, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": OWN}))
    return folder


def sft(checkpoint: Path, dataset: Path, output: Path, *words: str) -> int:
    settings = f"sft --model {checkpoint} --dataset {dataset} --output_dir {output} --max_steps 1 --report_to none"
    return main([*settings.split(), *words])


def test_a_difference_stops_before_anything_is_written(
    checkpoint: Path, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    assert sft(checkpoint, instructions, output, "--template", "alpaca") == 2
    printed = capsys.readouterr()
    assert "Tokens of two turns" in printed.out
    assert printed.err.count("\n") == 1
    assert "--on_template_difference named" in printed.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "template"),
    [
        (["--template", "alpaca", "--on_template_difference", "named"], "alpaca"),
        (["--template", "alpaca", "--on_template_difference", "own"], "chat_template"),
        ([], "chat_template"),
    ],
)
def test_the_choice_is_recorded_and_not_asked_again(
    words: list[str],
    template: str,
    checkpoint: Path,
    instructions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "output"
    assert sft(checkpoint, instructions, output, *words) == 0
    record = read_record(output / "sft_lora_model")
    assert record is not None and record.template == template
    capsys.readouterr()
    adapter = str(output / "sft_lora_model")
    assert sft(checkpoint, instructions, tmp_path / "again", "--adapter", adapter) == 0
    assert "Tokens of two turns" not in capsys.readouterr().out
    again = read_record(tmp_path / "again" / "sft_lora_model")
    assert again is not None and again.template == template


def test_a_template_of_another_family_is_refused(
    base: Path, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft(base, instructions, tmp_path / "output", "--template", "chatml") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "template chatml writes <|im_start|>" in error
