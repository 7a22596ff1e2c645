"""The tokenizer verbs from files to files."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from hanlin.commands.tokenizer import extend, report, train
from hanlin.config.tokenizer import TokenizerExtend, TokenizerReport, TokenizerTrain
from hanlin.errors import UserError
from hanlin.vocab.tokenizer import TextTokenizer

ENGLISH = [
    f"The {noun} saw the {other} again and again." for noun in ("fox", "crow", "wolf") for other in ("dog", "sea")
]
CHINESE = [
    f"{noun}学习{other}，学习时间很长。" for noun in ("先生", "学生", "老人") for other in ("历史", "音乐", "数学")
]


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    english = tmp_path / "english.txt"
    english.write_text("\n".join(ENGLISH * 5) + "\n", encoding="utf-8")
    chinese = tmp_path / "chinese.jsonl.xz"
    with lzma.open(chinese, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in CHINESE * 5)
    return english, chinese


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_train_extend_report(
    corpora: tuple[Path, Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    english, chinese = corpora
    base, extended, result = tmp_path / "base", tmp_path / "extended", tmp_path / "reports" / "report.json"
    config = TokenizerTrain(corpus=(str(english),), output_dir=str(base), kind=kind, vocab_size=285)  # type: ignore[arg-type]
    assert train(config) == 0
    assert len(TextTokenizer.load(str(base))) == 285
    assert extend(
        TokenizerExtend(
            tokenizer=str(base), corpus=(str(chinese),), vocab_size=20, pad_token="[PAD]", pad_to_multiple_of=64,
            output_dir=str(extended),
        )
    ) == 0  # fmt: skip
    new = TextTokenizer.load(str(extended))
    assert (len(new), new.pad_id, new.pad_to_multiple_of) == (306, 305, 64)
    printed = capsys.readouterr().out
    assert "320 (a multiple of 64)" in printed and "added 21" in printed
    settings = TokenizerReport(
        tokenizer=str(extended), before=str(base), corpus=(str(chinese),), text="学习 learn", json=str(result)
    )
    assert report(settings) == 0
    read = json.loads(result.read_text(encoding="utf-8"))
    assert read["extends_before"] is True
    assert read["after"]["text"]["num_texts"] == 45 and read["after"]["text"]["num_failures"] == 0
    han = [read[name]["text"]["tokens_per_character_by_script"]["Han"] for name in ("before", "after")]
    assert han[0] == 3.0 and han[1] < 1.2
    assert "tokens/character" in capsys.readouterr().out


def test_what_is_left_out_of_training_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [*ENGLISH, "The dog\0 saw\u2028the sea."]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    for name, loss in (("a", 1), ("b", 0)):
        if not loss:
            corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in ENGLISH), encoding="utf-8")
        train(TokenizerTrain(corpus=(str(corpus),), output_dir=str(tmp_path / name), vocab_size=280))
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.count("1 characters that the trainer cannot hold (NUL) and 1 line separators") == loss


def test_pieces_of_another_model_file(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    for name, corpus, size in (("a", corpora[0], 285), ("b", corpora[1], 300)):
        train(TokenizerTrain(corpus=(str(corpus),), output_dir=str(tmp_path / name), vocab_size=size))
    for number, path in enumerate((tmp_path / "b" / "tokenizer.model", tmp_path / "b")):
        output = tmp_path / f"out{number}"
        extend(TokenizerExtend(tokenizer=str(tmp_path / "a"), pieces_from=str(path), output_dir=str(output)))
        new = TextTokenizer.load(str(output))
        assert new.extends(TextTokenizer.load(str(tmp_path / "a"))) and "学习" in new.pieces()


def test_max_characters_takes_the_start_of_the_corpus(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    result = tmp_path / "report.json"
    train(TokenizerTrain(corpus=(str(corpora[0]),), output_dir=str(tmp_path / "a"), vocab_size=285))
    report(
        TokenizerReport(tokenizer=str(tmp_path / "a"), corpus=(str(corpora[0]),), max_characters=50, json=str(result))
    )
    assert json.loads(result.read_text(encoding="utf-8"))["after"]["text"]["num_characters"] == 50


def test_nothing_is_replaced_unless_asked(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    english = str(corpora[0])
    train(TokenizerTrain(corpus=(english,), output_dir=str(tmp_path / "a"), vocab_size=285))
    with pytest.raises(UserError, match=r"--output_dir: .* already holds tokenizer.model; .*--overwrite"):
        train(TokenizerTrain(corpus=(english,), output_dir=str(tmp_path / "a"), vocab_size=280))
    assert len(TextTokenizer.load(str(tmp_path / "a"))) == 285
    train(TokenizerTrain(corpus=(english,), output_dir=str(tmp_path / "a"), vocab_size=280, overwrite=True))
    assert len(TextTokenizer.load(str(tmp_path / "a"))) == 280


def test_faults_of_extend(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    english, chinese = map(str, corpora)
    sp, by = str(tmp_path / "sp"), str(tmp_path / "by")
    train(TokenizerTrain(corpus=(english,), output_dir=sp, vocab_size=285))
    train(TokenizerTrain(corpus=(english,), output_dir=by, vocab_size=285, kind="bytes"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    out = {"output_dir": str(tmp_path / "out")}
    for settings, message in (
        ({"tokenizer": sp, "pieces_from": by, **out}, "--pieces_from: .* not a SentencePiece tokenizer.*--corpus"),
        ({"tokenizer": by, "pieces_from": sp, **out}, "--pieces_from: is not a byte-level"),
        ({"tokenizer": sp, "pieces_from": english, **out}, "not a SentencePiece model"),
        ({"tokenizer": sp, "pieces_from": "nowhere/", **out}, "--pieces_from: nowhere/ does not exist"),
        ({"tokenizer": sp, "corpus": (chinese,), "vocab_size": 5000, **out}, "--vocab_size: is 5000, more than"),
        ({"tokenizer": sp, "corpus": ("nowhere.txt",), **out}, "--corpus"),
        ({"tokenizer": sp, "pad_token": "<pad>", "output_dir": str(tmp_path / "file")}, "--output_dir: cannot write"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            extend(TokenizerExtend(**settings))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert not any((tmp_path / "out").glob("*")), "a failed run leaves no files"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pieces_from": "a", "corpus": ("b",)}, "both given"),
        ({}, "--pieces_from: is missing"),
        ({"corpus": ("b",), "vocab_size": 0}, "--vocab_size"),
        ({"corpus": ("b",), "character_coverage": 1.5}, "--character_coverage"),
        ({"corpus": ("b",), "max_piece_length": 0}, "--max_piece_length"),
        ({"pad_token": "x", "pad_to_multiple_of": 0}, "--pad_to_multiple_of"),
        ({"corpus": ("b",), "max_characters": 0}, "--max_characters"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerExtend(tokenizer="t", output_dir="o", **settings)  # type: ignore[arg-type]
