"""``hanlin export --to native``: every family of 2023, as plain transformers reads what was written."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from golden import VARIANTS, cases, worst, write_case
from hanlin.cli import main
from hanlin.errors import UserError
from hanlin.export import native, shards
from hanlin.export.native import NativeReport, plan_native, write_native
from hanlin.model.identity import read_record, weights_identity
from hanlin.model.load import load_model, open_base
from hanlin.model.native.own_types import register
from hanlin.model.weights import open_weights
from hanlin.vocab.tokenizer import TextTokenizer
from old_tokenizers import TEXTS, old_tokenizer
from vocab_texts import CHINESE

ALIBI = ("baichuan-13b", "baichuan2-13b")
HEADS = ("baichuan2-7b", "baichuan2-13b")

TOKENIZERS: dict[str, Any] = {
    "qwen-v1": "qwen",
    "baichuan-7b": "baichuan",
    "baichuan2-7b": "baichuan",
    "baichuan-13b": "baichuan-13b",
    "baichuan2-13b": "baichuan-13b",
    "chatglm2": "chatglm2",
    "internlm-7b": "internlm",
    "internlm-20b": "internlm",
}
"""Case to the tokenizer of 2023 that lay beside it."""


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer of 40 pieces, which is the vocabulary of the golden cases."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog again and again"] * 10),
        model_writer=model,
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
        num_threads=1,
    )
    folder = tmp_path_factory.mktemp("pieces")
    TextTokenizer.from_sentencepiece(model.getvalue()).save(folder)
    return str(folder)


def short(name: str) -> Any:
    """The first run of a case in evaluation mode that no long-context rule touches."""
    return {**next(run for run in cases()[name]["runs"] if len(run["input_ids"][0]) <= 16), "training": False}


def export(model: Path, out: Path, pieces: str | None = None, **options: Any) -> NativeReport:
    return write_native(plan_native(model, tokenizer=pieces), out, **options)


def assert_nothing_left(tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_plain_transformers_gives_the_golden_logits(
    tmp_path: Path, pieces: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: several files in, several files out, no name of 2023 left."""
    model, out = write_case(tmp_path / "m", name, format="bin", shards=3), tmp_path / "out"
    flags = ["--tokenizer", pieces, "--output_dir", str(out), "--max_shard_size", "20KB"]
    assert main(["export", "--to", "native", "--model", str(model), *flags]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out)
    assert (
        "are those of the checkpoint" in printed.err and "its logits differ from the checkpoint's by 0 " in printed.err
    )
    if name in ALIBI:
        assert "after register()" in printed.err
        register()
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    assert worst(plain, short(name)) <= 1e-5
    assert len(list(out.glob("model-*.safetensors"))) > 1 and (out / "model.safetensors.index.json").is_file()
    values = json.loads((out / "config.json").read_text())
    assert "auto_map" not in values and values["hanlin_family"] == VARIANTS[name] and values["dtype"] == "float32"
    names = list(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"])
    assert not [key for key in names if any(old in key for old in ("transformer.", "W_pack", "c_attn", "query_key"))]
    record = read_record(out)
    assert record is not None and record.base_model == str(model)
    assert record.base_identity == weights_identity(open_base(model, "--model"))
    checksums = json.loads((out / "checksums.json").read_text())
    assert checksums["identity"] == weights_identity(open_weights(out, "out"))
    assert (checksums["identity"] == record.base_identity) == (name not in HEADS), "only a normalised head is computed"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_the_tokenizer_beside_it_gives_the_same_ids(tmp_path: Path, name: str) -> None:
    tokenizer = old_tokenizer(tmp_path / "m", TOKENIZERS[name])
    rows = len(TextTokenizer.load(str(tokenizer))) + 3
    before = TextTokenizer.load(str(write_case(tokenizer, name, rows=rows)))
    report = export(tokenizer, tmp_path / "out")
    after = TextTokenizer.load(str(tmp_path / "out"))
    assert after.identity == before.identity and after.prefix_ids == before.prefix_ids
    texts = [*TEXTS, *CHINESE, "<|im_end|> <s></s> <reserved_106>"]
    assert after.encode_batch(texts) == before.encode_batch(texts)
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain.is_fast
    assert [plain(text, add_special_tokens=False).input_ids for text in TEXTS] == before.encode_batch(TEXTS)
    assert report.logits_proof is not None and report.logits_proof.difference == 0.0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".py"] == []


def test_half_precision_stays_as_it_is(tmp_path: Path, pieces: str) -> None:
    model = write_case(tmp_path / "m", "baichuan2-7b", dtype=torch.bfloat16)
    report = export(model, tmp_path / "out", pieces)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    lengths = written["lm_head.weight"].float().norm(dim=1)
    assert torch.allclose(lengths, torch.ones(40), atol=2e-2) and report.num_tensors == len(written)


def test_an_adapter_of_the_checkpoint_belongs_on_what_was_written(tmp_path: Path, pieces: str) -> None:
    model = write_case(tmp_path / "m", "qwen-v1", dtype=torch.float16)
    export(model, tmp_path / "out", pieces)
    assert weights_identity(open_base(tmp_path / "out", "")) == weights_identity(open_base(model, ""))
    with pytest.raises(UserError, match=r"has today's format already \(model_type 'qwen2'\)"):
        plan_native(tmp_path / "out")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        native.UserError("proof", "stopped"),
    ],
)
def test_a_full_disk_and_a_failed_proof_leave_the_older_folder(
    tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model, out = write_case(tmp_path / "m", "chatglm2"), tmp_path / "out"
    export(model, out, pieces, proof="none")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = 0

    def save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Any = None) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise error
        save_file(dict(tensors), path, metadata=metadata)

    monkeypatch.setattr(shards, "save_file", save)
    with pytest.raises(UserError, match=r"no space left on the disk.*nothing was left behind|stopped"):
        export(model, out, pieces, overwrite=True, max_shard_bytes=20_000)
    assert written == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_output_folders(tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = write_case(tmp_path / "m", "chatglm2"), tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match=r"is not empty.*--overwrite"):
        export(model, out, pieces)
    with pytest.raises(UserError, match="holds no model"):
        export(model, out, pieces, overwrite=True)
    for target in (model, tmp_path):
        with pytest.raises(UserError, match="holds the input"):
            export(model, target, pieces, overwrite=True)
    monkeypatch.setattr(shards, "free_bytes", lambda target: 1000)
    with pytest.raises(UserError, match=r"needs 0\.00 GB and the disk has 0\.00 GB free"):
        export(model, tmp_path / "other", pieces)
    assert (out / "diary.txt").read_text() == "dear diary" and not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["chatglm2", "baichuan2-7b"])
def test_the_proof_finds_one_wrong_element(
    tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = write_case(tmp_path / "m", name)
    wrong = {"chatglm2": "model.layers.1.self_attn.k_proj.weight", "baichuan2-7b": "lm_head.weight"}[name]

    def save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Any = None) -> None:
        found = {key: tensor.clone() for key, tensor in tensors.items()}
        found[wrong][3, 5] += 1e-4
        save_file(found, path, metadata=metadata)

    monkeypatch.setattr(shards, "save_file", save)
    with pytest.raises(UserError, match=r"^proof: .* on the disk are not "):
        export(model, tmp_path / "out", pieces, proof="weights")
    assert_nothing_left(tmp_path)


def test_the_proof_by_logits_finds_wrong_settings(tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_case(tmp_path / "m", "internlm-7b")
    honest = native.config_values

    def wrong(*given: Any, **options: Any) -> Any:
        return {**honest(*given, **options), "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}

    monkeypatch.setattr(native, "config_values", wrong)
    with pytest.raises(UserError, match="logits of the written model differ from the checkpoint's by"):
        export(model, tmp_path / "out", pieces)
    assert_nothing_left(tmp_path)


def test_without_memory_the_logits_are_left_out_loudly(
    tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available_memory", lambda: 1000)
    report = export(write_case(tmp_path / "m", "xverse"), tmp_path / "out", pieces)
    assert report.logits_proof is None and any("the logits were not" in notice for notice in report.notices)


def test_one_shard_at_a_time(tmp_path: Path, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No whole model is held: what is handed to the writer is never more than a shard."""
    held: list[int] = []
    honest = shards.SafetensorsWriter.write

    def write(self: Any, tensors: dict[str, torch.Tensor]) -> None:
        held.append(sum(tensor.nbytes for tensor in tensors.values()))
        honest(self, tensors)

    monkeypatch.setattr(shards.SafetensorsWriter, "write", write)
    monkeypatch.setattr(native, "load_model", None)
    report = export(
        write_case(tmp_path / "m", "qwen-v1"), tmp_path / "out", pieces, max_shard_bytes=20_000, proof="weights"
    )
    assert len(held) > 3 and max(held) <= 20_000 and sum(held) == report.nbytes


def drop_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if "layers.1.self_attention.dense" not in key}


def test_mistakes_are_one_line(tmp_path: Path, pieces: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole, less = write_case(tmp_path / "m", "chatglm2"), write_case(tmp_path / "less", "chatglm2", change=drop_one)
    out = ["--output_dir", str(tmp_path / "out")]
    for words, expected in (
        (["--model", str(less), "--tokenizer", pieces], "lacks weights of a glm model, 1 such as model.layers.1"),
        (["--model", str(whole)], "holds a ChatGLM tokenizer without its vocabulary"),
        (["--model", str(tmp_path / "none")], "does not exist"),
        ([], "--model: is missing"),
        (["--model", str(whole), "--max_shard_size", "big"], "--max_shard_size: is 'big'"),
        (["--model", str(whole), "--to", "gguf"], "is 'gguf'; expected one of native"),
    ):
        assert main(["export", *(["--to", "native"] if "--to" not in words else []), *words, *out]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and expected in error, error
    assert_nothing_left(tmp_path)


def test_what_was_written_is_a_base_like_any_other(tmp_path: Path, pieces: str) -> None:
    export(write_case(tmp_path / "m", "baichuan-13b"), tmp_path / "out", pieces)
    run = short("baichuan-13b")
    assert worst(load_model(tmp_path / "out", dtype=torch.float32), run) <= 1e-5
