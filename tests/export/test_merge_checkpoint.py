"""Merged weights against PEFT's own merge and against plain float64 sums; what lies beside them; memory."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanlin.export.merge import merge_checkpoint
from hanlin.export.merged import MergedWeights
from hanlin.model.identity import Record, read_record, weights_identity, write_record
from hanlin.model.weights import WeightIndex, open_weights

Make = Callable[..., Path]


def read(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by safetensors itself."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def peft_merge(base: Path, adapters: list[Path], rows: int) -> dict[str, torch.Tensor]:
    """PEFT's merge of adapters in order, one after another, as float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        stored = load_file(adapter / "adapter_model.safetensors")
        embedding = stored.get("base_model.model.model.embed_tokens.weight")
        if embedding is not None:
            model.resize_token_embeddings(embedding.shape[0], mean_resizing=False)
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    assert model.get_input_embeddings().weight.shape[0] == rows
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 2e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("base_format", ["safetensors", "bin"])
@pytest.mark.parametrize("style", ["2023", "safetensors", "live"])
def test_one_adapter_equals_peft(
    tmp_path: Path, make_base: Make, make_adapter: Make, base_format: str, style: str
) -> None:
    base = make_base(format=base_format, max_shard_size="20KB", kv_heads=2)
    adapter = make_adapter(base, embedding_rows=80, style=style)
    reference = make_adapter(base, "reference", embedding_rows=80, style="safetensors")
    report = merge_checkpoint(base, [adapter], tmp_path / "out", proof="weights")
    expected = peft_merge(base, [reference], 80)
    assert_same(read(tmp_path / "out"), expected)
    unchanged = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    q = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.allclose(expected[q], unchanged[q], atol=0.1), "the adapter matters"
    assert (report.count("updated"), report.count("replaced"), report.count("kept")) == (14, 2, 5)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == loaded.get_input_embeddings().weight.shape[0] == 80


def test_two_adapters_in_order_equal_peft_and_two_merges(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(dtype="bfloat16")
    first = make_adapter(base, "first", embedding_rows=80, style="safetensors")
    second = make_adapter(base, "second", embedding_rows=81, style="safetensors", seed=5, rank=2)
    at_once = merge_checkpoint(base, [first, second], tmp_path / "both", proof="logits")
    expected = peft_merge(base, [first, second], 81)
    # bfloat16 keeps 8 bits; weights are below 4, so two roundings are at most 2 * 4 / 2^9.
    assert_same(read(tmp_path / "both"), expected, atol=2**-6)
    merge_checkpoint(base, [first], tmp_path / "one", proof="none")
    then = merge_checkpoint(tmp_path / "one", [second], tmp_path / "two", proof="none")
    assert at_once.identity == then.identity, "at once and one after the other are the same bits"
    records = [read_record(tmp_path / name) for name in ("both", "two")]
    assert records[0] is not None and records[1] is not None
    assert records[0].chain == records[1].chain and len(records[0].chain) == 2
    assert records[0].base_identity == records[1].base_identity == weights_identity(open_weights(base, "base"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(tmp_path: Path, make_base: Make, make_adapter: Make, dtype: str) -> None:
    base = make_base(dtype=dtype)
    adapter = make_adapter(base, style="safetensors", config={"use_rslora": True})
    merge_checkpoint(base, [adapter], tmp_path / "out")
    before, after, stored = read(base), read(tmp_path / "out"), load_file(adapter / "adapter_model.safetensors")
    eps = torch.finfo(getattr(torch, dtype)).eps
    for name, tensor in after.items():
        assert tensor.dtype == getattr(torch, dtype)
        key = f"base_model.model.{name.removesuffix('.weight')}"
        exact = before[name].double()
        if f"{key}.lora_A.weight" in stored:
            b, a = (stored[f"{key}.lora_{half}.weight"].double() for half in "BA")
            exact = exact + b @ a * (8.0 / 4**0.5)
        # Half an eps of the value for the rounding, and a little for the float32 product.
        assert bool(((tensor.double() - exact).abs() <= eps * 0.501 * exact.abs() + 1e-6).all()), name


def test_dtype_can_be_chosen(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(dtype="bfloat16")
    merge_checkpoint(base, [make_adapter(base)], tmp_path / "out", dtype=torch.float32, proof="weights")
    assert {tensor.dtype for tensor in read(tmp_path / "out").values()} == {torch.float32}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_tied_embeddings_stay_tied(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(tied=True)
    adapter = make_adapter(base, embedding_rows=80, style="safetensors")
    merge_checkpoint(base, [adapter], tmp_path / "out")
    merged = read(tmp_path / "out")
    assert "lm_head.weight" not in merged
    stored = load_file(adapter / "adapter_model.safetensors")
    assert torch.equal(merged["model.embed_tokens.weight"], stored["base_model.model.model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_head_of_its_own_unties(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    untied = make_base("untied")
    adapter = make_adapter(untied, embedding_rows=80, style="safetensors")  # brings embed_tokens and another lm_head
    base = make_base(tied=True)
    report = merge_checkpoint(base, [adapter], tmp_path / "out")
    merged, stored = read(tmp_path / "out"), load_file(adapter / "adapter_model.safetensors")
    assert torch.equal(merged["lm_head.weight"], stored["base_model.model.lm_head.weight"])
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    assert any("no longer tied" in notice for notice in report.notices)
    assert report.count("added") == 1


def test_an_equal_head_leaves_the_model_tied(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(tied=True)
    adapter = make_adapter(make_base("untied"), embedding_rows=80, style="safetensors")
    stored = load_file(adapter / "adapter_model.safetensors")
    stored["base_model.model.lm_head.weight"] = stored["base_model.model.model.embed_tokens.weight"].clone()
    from safetensors.torch import save_file

    save_file(stored, adapter / "adapter_model.safetensors")
    merge_checkpoint(base, [adapter], tmp_path / "out")
    assert "lm_head.weight" not in read(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True


def test_what_lies_beside_the_weights(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    adapter = make_adapter(base, embedding_rows=80)
    (adapter / "modeling_evil.py").write_text("raise SystemExit")
    write_record(
        adapter,
        Record(
            kind="adapter",
            stage="sft",
            base_model=str(base),
            base_identity=weights_identity(open_weights(base, "base")),
            tokenizer_identity=_tokenizer_identity(adapter),
            template="alpaca",
            system="be kind",
            chain=(),
            base_vocab_rows=64,
            hanlin_version="0",
        ),
    )
    config = json.loads((base / "config.json").read_text())
    config |= {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}, "auto_map": {"x": "y"}}
    (adapter / "config.json").write_text(json.dumps(config))  # a long-context adapter brings its settings
    out = tmp_path / "out"
    report = merge_checkpoint(None, [adapter], out, max_shard_bytes=30_000, proof="weights")
    record = read_record(out)
    assert record is not None
    assert (record.kind, record.stage, record.template, record.system) == ("model", "merge", "alpaca", "be kind")
    assert (record.base_model, record.base_vocab_rows, len(record.chain)) == (str(base), 64, 1)
    written = json.loads((out / "config.json").read_text())
    assert written["vocab_size"] == 80 and written["rope_parameters"]["factor"] == 4.0 and "auto_map" not in written
    assert (out / "tokenizer.model").read_bytes() == (adapter / "tokenizer.model").read_bytes()
    assert (out / "tokenizer_config.json").read_bytes() == (adapter / "tokenizer_config.json").read_bytes()
    assert not list(out.glob("*.py")) and (out / "generation_config.json").is_file()
    checksums = json.loads((out / "checksums.json").read_text())
    assert checksums["files"].keys() == {path.name for path in out.iterdir()} - {"checksums.json"}
    for name, digest in checksums["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    for name, tensor in read(out).items():
        assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == checksums["tensors"][name]
    assert checksums["identity"] == report.identity == weights_identity(open_weights(out, "out"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing left aside"


def _tokenizer_identity(folder: Path) -> str:
    from hanlin.vocab.tokenizer import TextTokenizer

    return TextTokenizer.load(str(folder)).identity


def test_one_shard_in_memory(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of all tensors that were loaded or computed and are still alive, at their highest."""
    alive, peak = 0, 0

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal alive, peak
        size = tensor.nbytes
        alive += size
        peak = max(peak, alive)

        def gone() -> None:
            nonlocal alive
            alive -= size

        weakref.finalize(tensor, gone)
        return tensor

    load, apply = WeightIndex.load, MergedWeights.apply
    monkeypatch.setattr(WeightIndex, "load", lambda self, name: watched(load(self, name)))
    monkeypatch.setattr(MergedWeights, "apply", lambda self, name, weight: watched(apply(self, name, weight)))
    base = make_base(layers=12)
    adapter = make_adapter(base, style="safetensors")
    shard = 20_000
    merge_checkpoint(base, [adapter], tmp_path / "out", max_shard_bytes=shard, proof="weights")
    total = sum(tensor.nbytes for tensor in read(tmp_path / "out").values())
    largest = max(tensor.nbytes for tensor in read(tmp_path / "out").values())
    assert total > 10 * shard
    assert 0 < peak <= shard + 4 * largest, "a shard, and a tensor before, its two factors and after"
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert sum(tensor.nbytes for tensor in load_file(file).values()) <= shard


def test_infinity_in_a_config_stays(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    """State space models limit a time step to (0, inf); a null there could not be loaded."""
    base = make_base()
    adapter = make_adapter(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"time_step_limit": [0.0, float("inf")]}))
    merge_checkpoint(base, [adapter], tmp_path / "out", proof="none")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["time_step_limit"] == [0.0, float("inf")]
