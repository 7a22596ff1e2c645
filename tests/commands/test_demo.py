"""``hanlin demo`` as it is typed, with a few steps a stage: what it leaves, what it refuses, what it measures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hanlin.cli import main
from hanlin.commands.demo import bits_per_byte
from hanlin.demo.recipe import HELD_OUT, QUESTIONS, SYSTEM, TEMPLATE
from hanlin.demo.report import SEEN


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fast run, in which a person has put a note."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", str(folder), "--fast", "--seed", "3"]) == 0
    (folder / "note.txt").write_text("mine", encoding="utf-8")
    return folder


def test_leaves_models_results_and_report(demo: Path) -> None:
    for name in ("english-model", "chinese-model", "chat-model"):
        assert (demo / name / "model.safetensors").is_file() and (demo / name / "tokenizer.model").is_file()
    assert (demo / "pre-training" / "pt_lora_model" / "adapter_model.safetensors").is_file()
    assert (demo / "tuning" / "sft_lora_model" / "adapter_model.safetensors").is_file()
    results = json.loads((demo / "demo.json").read_text(encoding="utf-8"))
    tokens = results["measures"]["Tokens per character"]
    assert tokens["before"] > 2.5 and tokens["after"] < 1.2
    bits = results["measures"]["Bits per byte"]
    assert bits["after pre-training"] < bits["English model"]
    assert [row["question"] for row in results["answers"]] == [
        row["question"] for row in json.loads(QUESTIONS.read_text(encoding="utf-8"))
    ]
    assert set(results["scores"]) == set(SEEN)
    assert len(results["seconds"]) == 9


def test_report_shows_each_stage_and_curve(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    for verb in ("tokenizer train", "tokenizer extend", "pt", "sft", "merge", "chat"):
        assert f"<pre>hanlin {verb} " in page
    assert page.count("<polyline") == 3
    assert page.count("title='right'") + page.count("title='wrong'") == 2 * 14
    assert "--fast" in page


def test_base_tokenizer_knows_no_chinese_and_the_last_one_does(demo: Path) -> None:
    import sentencepiece

    old = sentencepiece.SentencePieceProcessor(model_file=str(demo / "english-model" / "tokenizer.model"))
    new = sentencepiece.SentencePieceProcessor(model_file=str(demo / "chat-model" / "tokenizer.model"))
    assert all(not "\u4e00" <= char <= "\u9fff" for i in range(len(old)) for char in old.id_to_piece(i))
    assert [new.id_to_piece(i) for i in range(len(old))] == [old.id_to_piece(i) for i in range(len(old))]
    assert len(old.encode("北京")) == 1 + 6 and len(new.encode("北京")) <= 3


def test_result_knows_its_template(demo: Path) -> None:
    record = json.loads((demo / "chat-model" / "hanlin.json").read_text(encoding="utf-8"))
    assert (record["template"], record["system"]) == (TEMPLATE, SYSTEM)
    assert len(record["chain"]) == 2, "two adapters were merged"


def test_bits_per_byte_against_a_plain_count(demo: Path) -> None:
    """Token by token with transformers alone."""
    from transformers import AutoModelForCausalLM

    from hanlin.infer.engine import open_engine

    engine = open_engine(str(demo / "chinese-model"), template=TEMPLATE, system=SYSTEM)
    model = AutoModelForCausalLM.from_pretrained(demo / "chinese-model").eval()
    texts = [line[:12] for line in HELD_OUT.read_text(encoding="utf-8").splitlines()[:2]]
    nats = 0.0
    for text in texts:
        ids = [1, *engine.tokenizer.encode(text)]
        for end in range(1, len(ids)):
            with torch.inference_mode():
                chances = model(torch.tensor([ids[:end]])).logits[0, -1].double().softmax(-1)
            nats -= math.log(chances[ids[end]].item())
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert bits_per_byte(engine, texts) == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_of_a_blind_guess() -> None:
    """A model of 256 equally likely tokens that spells each byte needs 8 bits for it."""

    def blind(input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 256))

    blind.device = torch.device("cpu")  # type: ignore[attr-defined]
    tokenizer = SimpleNamespace(bos_id=1, encode=lambda text: list(text.encode()))
    engine = SimpleNamespace(model=blind, tokenizer=tokenizer)
    assert bits_per_byte(engine, ["云", "abc 天地"]) == pytest.approx(8)  # type: ignore[arg-type]


def test_earlier_run_is_kept_and_named(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "demo.json").read_bytes()
    assert main(["demo", str(demo), "--fast"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds an earlier run of the demo" in error and "--overwrite" in error
    assert (demo / "demo.json").read_bytes() == before


def test_folder_of_others_is_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert main(["demo", str(tmp_path), "--overwrite"]) == 2
    assert "not of a demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["demo", str(tmp_path / "thesis.txt")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_overwrite_replaces_what_a_demo_wrote_and_nothing_else(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hanlin.commands.demo._load_verbs", stop)
    assert main(["demo", str(demo), "--fast", "--overwrite"]) == 130
    assert {path.name for path in demo.iterdir()} == {"note.txt", "text", "demo.json"}
    assert main(["demo", str(demo)]) == 2, "an unfinished run is not silently replaced either"


def test_bad_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "-1"]) == 2
    assert "--seed: is -1" in capsys.readouterr().err
    assert main(["demo", "--fsat"]) == 2
    assert "did you mean --fast?" in capsys.readouterr().err
