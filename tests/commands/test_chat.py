"""``hanlin chat`` as it is typed, with lines on standard input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from answering import chain, save_adapter, save_model, teach, tokenizer
from hanlin.cli import main
from hanlin.infer.engine import open_engine
from hanlin.types import Message

EOS = 2


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers 月光 to everything."""
    directory = save_model(tmp_path_factory.mktemp("models") / "model", template="llama2-zh")
    last = open_engine(str(directory)).prompt_ids([Message("user", "x")])[-1]
    return teach(directory, chain([last, *tokenizer().encode("月光"), EOS]))


def chat(monkeypatch: pytest.MonkeyPatch, lines: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return main(["chat", *words])


def test_piped_lines_are_answered(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(model_dir), "--temperature", "0", "--repetition_penalty", "1")
    assert chat(monkeypatch, "你好\n\nagain\n", *words) == 0
    printed = capsys.readouterr()
    assert printed.out == "月光\n月光\n"
    assert chat(monkeypatch, "你好\n\nagain\n", *words, "--end_on_empty_line") == 0
    assert capsys.readouterr().out == "月光\n"


def test_template_none_continues_the_text(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "x\n", str(model_dir), "--template", "none", "--max_new_tokens", "3") == 0
    assert "no history is kept" in capsys.readouterr().err


def test_the_adapter_is_the_only_argument(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapter(tmp_path / "run" / "sft_lora_model", model_dir)
    assert chat(monkeypatch, "你好\n", str(tmp_path / "run"), "--max_new_tokens", "5", "--seed", "1") == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--model: is missing"),
        (["/no/such/folder"], "/no/such/folder does not exist"),
        (["{empty}"], "neither a model nor an adapter"),
        (["{model}", "--tempreture", "0"], "temperature"),
        (["{model}", "--top_p", "0"], "--top_p: is 0"),
        (["{model}", "--template", "lama2-zh"], "llama2-zh"),
        (["{model}", "--adapter", "{empty}"], "holds no adapter"),
        (["{model}", "--device", "cuda:99"], "--device"),
    ],
)
def test_mistakes_get_one_line(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status = main(["chat", *(word.format(model=model_dir, empty=tmp_path) for word in words)])
    error = capsys.readouterr().err
    assert status == 2 and said in error
    assert error.count("\n") == 1 and "Traceback" not in error
