"""``hanlin merge`` from the words of a command line, today's and the older tool's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.config.merge import MergeConfig
from hanlin.errors import UserError
from hanlin.vocab.tokenizer import TextTokenizer
from tiny import tiny_adapter, tiny_llama


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Path]]:
    """A base and two adapters that leave the vocabulary as it is."""
    import io

    import sentencepiece

    root = tmp_path_factory.mktemp("merge")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog again and again"] * 10),
        model_writer=model, vocab_size=64, model_type="bpe", minloglevel=2, num_threads=1,
    )  # fmt: skip
    tokenizer = TextTokenizer.from_sentencepiece(model.getvalue())
    base = tiny_llama(root / "base", vocab_size=64)
    tokenizer.save(base)
    yield base, tiny_adapter(root / "first", base), tiny_adapter(root / "second", base, seed=3)


def test_older_flags(folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, first, second = folders
    out = tmp_path / "out"
    status = main(
        ["merge", "--base_model", str(base), "--lora_model", f"{first},{second}", "--output_type", "huggingface",
         "--output_dir", str(out), "--verbose"]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert status == 0 and printed.out.strip() == str(out)
    assert (out / "model.safetensors").is_file()
    assert "14 low-rank updates" in printed.err and "same most likely token" in printed.err
    assert "model.layers.0.self_attn.q_proj.weight: updated, moved by" in printed.err


def test_base_from_the_adapter(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, first, second = folders
    status = main(["merge", str(first), str(second), "--output_dir", str(tmp_path / "out"), "--proof", "none"])
    printed = capsys.readouterr()
    assert status == 0
    assert f"the base is {base}" in printed.err and "adapter 2" in printed.err and "no proof was made" in printed.err


def test_a_mistake_is_one_line(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, first, _ = folders
    assert main(["merge", "--model", str(base), "--adapter", str(first), "--output_dir", str(base)]) == 2
    assert main(["merge", "--model", str(tmp_path / "gone"), "--adapter", str(first), "--output_dir", "x"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("hanlin: --") for line in lines] == [True, True], lines


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500mb", 5 * 10**8), ("1.5G", 15 * 10**8), ("20KB", 20000), ("2GiB", 2**31)]
)
def test_sizes(text: str, size: int) -> None:
    assert MergeConfig(adapter=("a",), max_shard_size=text).max_shard_bytes == size


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"max_shard_size": "big"}, "--max_shard_size"),
        ({"num_shards": 2}, "--num_shards"),
        ({"adapter": ()}, "--adapter"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], place: str) -> None:
    with pytest.raises(UserError, match=f"^{place}: "):
        MergeConfig(**({"adapter": ("a",)} | settings))  # type: ignore[arg-type]
