"""Answers to a file of prompts: what is written, when, and how a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError
from hanlin.infer.batch import Prompt, check_output, settings_file, write_answers
from hanlin.infer.generate import Answer
from hanlin.types import Message


class Upper:
    """Answers in capitals; may be stopped after some batches."""

    def __init__(self, *, batches: int = 100, name: str = "upper") -> None:
        self.batches = batches
        self.name = name
        self.asked: list[list[str]] = []
        self.seeds: list[int | None] = []

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}

    def prompt_text(self, messages: Sequence[Message]) -> str:
        return f"[INST] {messages[-1].content} [/INST]"

    def generate_batch(self, conversations: Sequence[Sequence[Message]], settings: GenerationSettings) -> list[Answer]:
        if len(self.asked) >= self.batches:
            raise KeyboardInterrupt
        self.asked.append([messages[-1].content for messages in conversations])
        self.seeds.append(settings.seed)
        return [Answer(messages[-1].content.upper(), 3, 2, "stop") for messages in conversations]


PROMPTS = [
    Prompt((Message("user", text),), f"p.txt:{n}") for n, text in enumerate(["a", "b [/INST] c", "你好", "d", "e"])
]


def write(engine: Upper, output: Path, prompts: Sequence[Prompt] = PROMPTS, **settings: Any) -> tuple[int, list[str]]:
    notices: list[str] = []
    number = write_answers(
        engine,
        prompts,
        GenerationSettings(**settings),
        output,
        batch_size=2,
        progress=lambda done: None,
        notify=notices.append,
    )
    return number, notices


def outputs(file: Path) -> list[str]:
    return [json.loads(line)["Output"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_list_of_input_and_output(tmp_path: Path) -> None:
    file = tmp_path / "predictions.json"
    assert write(Upper(), file)[0] == 5
    rows = json.loads(file.read_text(encoding="utf-8"))
    # The older script split the text at [/INST] and lost what follows one inside the prompt or the answer.
    assert rows[1]["Input"] == "[INST] b [/INST] c [/INST]" and rows[1]["Output"] == "B [/INST] C"
    assert rows[2] == {
        "Input": "[INST] 你好 [/INST]",
        "Output": "你好",
        "instruction": "你好",
        "place": "p.txt:2",
        "num_prompt_tokens": 3,
        "num_new_tokens": 2,
        "finish_reason": "stop",
    }
    made_by = json.loads(settings_file(file).read_text(encoding="utf-8"))
    assert made_by["model"] == "upper" and made_by["generation"]["temperature"] == 0.2


def test_extra_fields_are_copied(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    write(Upper(), file, [Prompt((Message("user", "a"),), "p", {"reference": "right"})])
    assert json.loads(file.read_text())[0]["reference"] == "right"


def test_an_interrupted_list_leaves_the_old_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text("[]")
    with pytest.raises(KeyboardInterrupt):
        write(Upper(batches=1), file)
    assert file.read_text() == "[]"
    assert len(json.loads((tmp_path / "p.partial.json").read_text())) == 2


def test_lines_continue_where_they_stopped(tmp_path: Path) -> None:
    file, whole = tmp_path / "p.jsonl", tmp_path / "whole.jsonl"
    write(Upper(), whole)
    with pytest.raises(KeyboardInterrupt):
        write(Upper(batches=1), file)
    assert outputs(file) == ["A", "B [/INST] C"]
    engine = Upper()
    number, notices = write(engine, file)
    assert number == 5 and notices and "holds 2 of 5" in notices[0]
    assert engine.asked == [["你好", "d"], ["e"]]
    assert file.read_bytes() == whole.read_bytes()


def test_a_line_cut_by_a_kill_is_written_anew(tmp_path: Path) -> None:
    file, whole = tmp_path / "p.jsonl", tmp_path / "whole.jsonl"
    write(Upper(), whole)
    content = whole.read_bytes()
    third_line_cut = content[: content.index("你好".encode()) + 4]
    file.write_bytes(third_line_cut)
    write(Upper(), file)
    assert file.read_bytes() == content


def test_a_finished_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    write(Upper(), file)
    engine = Upper()
    write(engine, file)
    assert engine.asked == [] and len(outputs(file)) == 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"engine": Upper(name="other")}, "other settings \\(model\\)"),
        ({"temperature": 0.5}, "other settings \\(temperature\\)"),
        ({"prompts": PROMPTS[:2]}, "5 answers, and there are 2 prompts"),
        ({"prompts": PROMPTS[::-1]}, "p.jsonl:1: answers another prompt"),
    ],
)
def test_answers_of_another_run_are_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    file = tmp_path / "p.jsonl"
    write(Upper(), file)
    before = file.read_bytes()
    with pytest.raises(UserError, match=problem):
        write(change.pop("engine", Upper()), file, **change)
    assert file.read_bytes() == before


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"instruction": "a"}\n')
    with pytest.raises(UserError, match=r"train.jsonl:1: is not an answer"):
        write(Upper(), file)
    assert file.read_text() == '{"instruction": "a"}\n'


def test_a_seed_counts_on_with_the_place(tmp_path: Path) -> None:
    engine = Upper()
    write(engine, tmp_path / "p.json", seed=7)
    assert engine.seeds == [7, 9, 11]


def test_the_output_is_tried_before_work_begins(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "p.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        check_output(tmp_path / "file" / "p.json")


def test_a_name_without_a_folder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("predictions.json"))
    write(Upper(), Path("predictions.json"))
    assert (tmp_path / "predictions.json").is_file()


def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(Upper(batches=1), file)
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write(Upper(), file)
    assert file.read_bytes().startswith(before)
    with pytest.raises(UserError, match="No space left"):
        write(Upper(), tmp_path / "p.json")
    assert [path.name for path in tmp_path.glob(".*")] == []
