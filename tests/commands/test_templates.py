"""``hanlin templates`` and ``hanlin template show`` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.template import TEMPLATES
from hanlin.vocab.train import train_byte_level


def test_the_table_names_every_template(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["templates"]) == 0
    printed = capsys.readouterr().out
    for template in TEMPLATES.values():
        assert f" {template.name} " in printed
        assert all(f" {name} " in printed for name in template.also)
    assert "no place" in printed and "default text" in printed


def test_the_table_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["templates"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed, "nothing is cut off"
    assert all(f" {name} " in printed for name in TEMPLATES)


def test_json_and_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in every] == list(TEMPLATES)
    baichuan = next(item for item in every if item["name"] == "baichuan")
    assert baichuan["prompt"] == "{id:195}{user}{id:196}"
    assert baichuan["has_system_slot"] is True
    assert baichuan["stops"] == ["{eos}"]
    assert main(["templates", "Baichuan", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == ["baichuan"]
    assert main(["templates", "nothing-like-it"]) == 2
    assert "nothing-like-it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    made = train_byte_level(["user assistant system the fox"] * 3, 262, special_tokens=["<|im_start|>", "<|im_end|>"])
    made.hf.eos_token = "<|im_end|>"
    made.hf.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    made.save(folder)
    return str(folder)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["template", "show", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_trained_tokens_stand_in_brackets(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"instruction": "fox", "input": "", "output": "ok", "history": [["a", "b"]]}
    words = ("yi", "--tokenizer", tokenizer, "--row", json.dumps(row))
    printed = shown(capsys, *words)
    assert printed.count("⟦") == printed.count("⟧") == 3, "two answers and the line that explains"
    assert "⟦o|k|⟨<|im_end|>⟩⟧" in printed
    assert "⟦b|⟨<|im_end|>⟩⟧" in printed
    assert "⟨<|im_start|>⟩|" in printed
    assert "2 trained" not in printed and "5 trained" in printed
    last = shown(capsys, *words, "--train_on", "last")
    assert "⟦b|" not in last and "⟦o|k|⟨<|im_end|>⟩⟧" in last and "3 trained" in last


def test_ids_messages_and_the_own_template(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "ok"}]}
    printed = shown(capsys, "chat_template", "--tokenizer", tokenizer, "--row", json.dumps(row), "--ids")
    from hanlin.vocab.tokenizer import TextTokenizer

    end = TextTokenizer.load(tokenizer).special_id("<|im_end|>")
    assert printed.count(f"⟨<|im_end|>⟩ {end}") == 2, "after the question and after the answer, not within the question"
    assert "chat_template:" in printed


def test_tools_are_shown(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"function": {"name": "fox", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "ok"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": [{"name": "fox"}],
    }
    printed = shown(capsys, "qwen2.5", "--tokenizer", tokenizer, "--row", json.dumps(row)).replace("|", "")
    assert '{"name": "fox", "arguments": {}}\n</tool_call>⟨<im_end>⟩⟧' in printed.replace("↵", "")
    assert "<tool_response>" in printed and "⟦a⟨<im_end>⟩⟧" in printed
    assert '{"type": "function", "function": {"name": "fox"}}' in printed


def test_the_sample_fits_every_template(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("default", "default-generation", "qwen", "tigerbot"):
        assert "generation stops at <|im_end|>" in shown(capsys, name, "--tokenizer", tokenizer)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nope"], "unknown template 'nope'"),
        (["qwem"], "did you mean qwen"),
        (["yi", "--row", "{"], "--row: is no JSON"),
        (["yi", "--row", "[1]"], "--row: is of no known format"),
        (["yi", "--row", '{"a": 1}'], "--row: is of no known format"),
        (["yi", "--row", '{"instruction": "a", "output": ""}'], "empty answer"),
        (["chatglm2"], "template chatglm2 writes [gMASK] (token 64,790)"),
        (["default-generation", "--system", "be kind"], "no place for a system text"),
    ],
)
def test_mistakes_get_one_line(
    tokenizer: str, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    status = main(["template", "show", *words, "--tokenizer", tokenizer])
    printed = capsys.readouterr()
    assert status == 2
    assert printed.err.count("\n") == 1 and problem in printed.err


def test_a_missing_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "show", "yi"]) == 2
    assert "--tokenizer" in capsys.readouterr().err
    assert main(["template", "show", "yi", "--tokenizer", str(tmp_path / "no")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_search_without_a_match_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "alpaka"]) == 2
    assert "did you mean alpaca?" in capsys.readouterr().err
