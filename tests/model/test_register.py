"""A user's own entries, good and bad; bad ones name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.errors import UserError
from hanlin.model.catalog import CATALOG
from hanlin.model.entry import Entry
from hanlin.model.register import with_registered

GOOD = """\
- id: tigerbot-13b-chat
  family: llama
  huggingface: TigerResearch/tigerbot-13b-chat-v4
  template: default
  lora_target_modules: [q_proj, k_proj, v_proj]
  notes: own
- id: near
  path: weights
  qkv: W_pack
  dtype: bfloat16
"""


def test_yaml_adds_entries_and_leaves_the_catalog_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(GOOD)
    known = len(CATALOG)
    catalog = with_registered([str(file)])
    assert len(catalog) == known + 2
    assert len(CATALOG) == known
    assert catalog["tigerbot-13b-chat"] == Entry(
        id="tigerbot-13b-chat", family="llama", huggingface="TigerResearch/tigerbot-13b-chat-v4", template="default",
        lora_target_modules=("q_proj", "k_proj", "v_proj"), notes="own",
    )  # fmt: skip
    assert catalog["near"].path == str(tmp_path / "weights")
    assert catalog["near"].qkv == ("W_pack",)


@pytest.mark.parametrize(
    "text",
    [
        "MODELS = [{'id': 'mine', 'huggingface': 'team/mine'}]\n",
        "def models():\n    return [dict(id='mine', huggingface='team/mine')]\n",
        "from hanlin.model.entry import Entry\nMODELS = (Entry(id='mine', family='own', huggingface='team/mine'),)\n",
    ],
)
def test_python_gives_a_list_or_a_function(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    assert with_registered([str(file)])["mine"] == Entry(id="mine", family="own", huggingface="team/mine")


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.yaml", "- id: x\n  modlscope: a/b\n", 2, ["no field 'modlscope'", "modelscope"]),
        ("a.yaml", "- id: x\n  huggingface: a/b\n- id: qwen-7b\n  huggingface: c/d\n", 3, ["'qwen-7b' is taken"]),
        ("a.yaml", "- id: x\n  huggingface: a/b\n- id: x\n  huggingface: c/d\n", 3, ["taken", "a.yaml:1"]),
        ("a.yaml", "id: x\nhuggingface: qwen/qwen-7b\n", 1, ["belongs to the entry qwen-7b"]),
        ("a.yaml", "id: x\n", 1, ["modelscope, huggingface or path"]),
        ("a.yaml", "huggingface: a/b\n", 1, ["has no id"]),
        ("a.yaml", "id: x\nhuggingface: a/b\ndtype: fp16\n", 3, ["'fp16'", "float16"]),
        ("a.yaml", "id: x\nhuggingface: a/b\nqkv: {a: b}\n", 3, ["a list of names"]),
        ("a.yaml", "id: x\nhuggingface: 7\n", 2, ["huggingface is 7"]),
        ("a.yaml", "id: x\nid: y\n", 2, ["given twice"]),
        ("a.yaml", "- just text\n", 1, ["is no entry"]),
        ("a.yaml", "a: [\n", 2, ["is not YAML"]),
        ("a.yaml", "", None, ["holds no entries"]),
        ("a.py", "x = 1\n", None, ["gives no entries", "MODELS"]),
        ("a.py", "x = 1\ny = 1 / 0\n", 2, ["ZeroDivisionError"]),
        ("a.py", "x = (\n", 1, ["SyntaxError"]),
        ("a.py", "def models():\n    raise KeyError('k')\n", 2, ["KeyError"]),
        ("a.py", "MODELS = [7]\n", None, ["a.py[0]", "is 7"]),
        ("a.txt", "", None, ["neither YAML nor Python"]),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, name: str, text: str, line: int | None, words: list[str]) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError) as error:
        with_registered([str(file)])
    assert all(word in str(error.value) for word in words), error.value
    if line is not None:
        assert error.value.place == f"{file}:{line}"


def test_the_flag_reaches_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(GOOD)
    assert main(["models", "tigerbot", "--json", "--register", str(file)]) == 0
    assert "TigerResearch/tigerbot-13b-chat-v4" in capsys.readouterr().out
    assert main(["models", "tigerbot"]) == 2
    assert main(["models", "--register", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("own.yaml", "- id: a\n  path: x\n  ignore_file_pattern: ['((']\n", "own.yaml:3: ignore_file_pattern has '(('"),
        ("own.py", "MODELS = [dict(id='a', path='x', ignore_file_pattern='*.bin')]\n", "own.py[0]: ignore_file"),
        ("own.py", "x = 1\nraise SystemExit(0)\n", "own.py:2: SystemExit"),
    ],
)
def test_what_would_fail_later_or_end_in_silence_is_told_here(
    tmp_path: Path, name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert main(["models", "--register", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_path_that_is_no_folder_is_never_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``weights/house`` in the working directory is spelled like an id; a hub may have another model of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("id: house\npath: weights/house\n")
    assert main(["infer", "--model_type", "house", "--register", "own.yaml", "--prompt", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hanlin: --model_type: house is to be in weights/house, which is no folder here")
    assert error.count("\n") == 1
