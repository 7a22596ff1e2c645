"""Tokenizers by their hub ids, through the verbs that need no model and the real clients against hubs on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.vocab.tokenizer import TextTokenizer
from hub_server import COMMIT, HubServer, needs_modelscope, serve

HUBS = [("true", "huggingface"), pytest.param(("false", "modelscope"), marks=needs_modelscope)]
TEXT = "a fox, quick and brown: " * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small tokenizer, as its own ``save`` writes it, with what must not be fetched beside it."""
    texts = tmp_path / "text.txt"
    texts.write_text("\n".join(f"{TEXT} {i} birds" for i in range(50)))
    assert hanlin("tokenizer", "train", str(texts), "--vocab_size", "300", "--output_dir", str(tmp_path / "t")) == 0
    (tmp_path / "t" / "tokenization_evil.py").write_text("raise SystemExit")
    (tmp_path / "t" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "t"


@pytest.fixture
def hub(folder: Path) -> Iterator[HubServer]:
    with serve({"team/tok": folder}) as server:
        yield server


def hanlin(*words: str) -> int:
    from hanlin.cli import main

    return main(list(words))


def run(hub: HubServer, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the clients read their endpoints once."""
    return subprocess.run(
        [sys.executable, "-m", "hanlin", *words],
        capture_output=True,
        text=True,
        check=False,
        env=hub.environment(home, **more),
        timeout=300,
    )


@pytest.mark.parametrize("names", HUBS)
def test_a_report_by_hub_id_is_that_of_the_folder(
    names: tuple[str, str], hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    use_hf, _ = names
    report = tmp_path / "by_id.json"
    words = ("tokenizer", "report", "team/tok", "--text", TEXT, "--json", str(report), "--use_hf", use_hf)
    done = run(hub, tmp_path / "home", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hanlin("tokenizer", "report", str(folder), "--text", TEXT, "--json", str(tmp_path / "own.json")) == 0
    by_id, own = (json.loads(file.read_text()) for file in (report, tmp_path / "own.json"))
    assert by_id["after"]["vocabulary"] == own["after"]["vocabulary"]
    assert by_id["after"]["text"] == own["after"]["text"]
    assert not [name for name in hub.fetched if name.endswith((".py", ".safetensors"))]

    asked = len(hub.asked)
    assert run(hub, tmp_path / "home", *words, "--offline").returncode == 0
    assert len(hub.asked) == asked


@needs_modelscope
def test_the_environment_chooses_the_hub(hub: HubServer, tmp_path: Path) -> None:
    done = run(hub, tmp_path / "home", "tokenizer", "report", "team/tok", USE_HF="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [path for path in hub.asked if path.startswith("/api/models/")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tokenizer report team/tok --offline", "--tokenizer: team/tok is no folder here, and the cache of"),
        ("tokenizer report team/none", "--tokenizer: team/none is no folder here, and the hub does not give it"),
        ("tokenizer report team/tok --revision nowhere", "--tokenizer: team/tok is no folder here, and the hub"),
        ("template show default --tokenizer team/none", "--tokenizer: team/none is no folder here"),
    ],
)
def test_what_no_hub_gives_is_one_line(hub: HubServer, tmp_path: Path, words: str, said: str) -> None:
    done = run(hub, tmp_path / "home", *words.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_templates_and_extensions_take_ids_too(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = run(hub, home, "template", "show", "alpaca", "--tokenizer", "team/tok", "--revision", COMMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained" in done.stdout
    out = tmp_path / "out"
    done = run(hub, home, "tokenizer", "extend", str(folder), "--pieces_from", "team/tok", "--output_dir", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(TextTokenizer.load(str(out))) == len(TextTokenizer.load(str(folder)))


def test_an_old_file_from_a_hub_is_repaired(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    """A tokenizer.json of 2023 that today's library refuses."""
    (folder / "tokenizer.model").unlink()
    state = json.loads((folder / "tokenizer.json").read_text())
    state["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    done = run(hub, tmp_path / "home", "tokenizer", "report", "team/tok", "--text", TEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300" in done.stdout


def test_nothing_is_said_of_model_types_that_transformers_does_not_know(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would warn that a config of qwen is used for a model without a type."""
    import logging

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen"}))
    described = json.loads((folder / "tokenizer_config.json").read_text())
    assert described["tokenizer_class"]
    TextTokenizer.load(str(folder))
    assert not caplog.records
