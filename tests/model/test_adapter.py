"""Adapters on live models, nothing lost on the way. References: PEFT's own loader and the published counts."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hanlin.errors import UserError
from hanlin.model.adapter import (
    attach_adapter,
    enable_input_gradients,
    expected_adapter_bytes,
    new_adapter,
    save_adapter,
    trainable_summary,
)
from hanlin.model.adapter_files import read_adapter
from hanlin.model.identity import Record, read_record
from tiny import ALL_SEVEN, tiny_adapter, tiny_llama

IDS = torch.arange(1, 13).reshape(2, 6)
RECORD = Record(
    kind="adapter", stage="pt", base_model="base", base_identity="a" * 64, tokenizer_identity="b" * 64, template=None,
    system=None, chain=(), base_vocab_rows=64, hanlin_version="0.1.0",
)  # fmt: skip
BOTH = ("embed_tokens", "lm_head")


class Tokenizer:
    """As much of a tokenizer as save_adapter asks for."""

    def save(self, directory: Path) -> None:
        (directory / "tokenizer.model").write_bytes(b"pieces")


def load(base: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()


def fresh(model: PreTrainedModel, modules_to_save=(), targets=ALL_SEVEN) -> PeftModel:
    return new_adapter(model, rank=4, alpha=8.0, dropout=0.0, target_modules=targets, modules_to_save=modules_to_save)


def shake(model: PeftModel) -> PeftModel:
    """Trained-looking values: every trained parameter moves."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def save(model: PeftModel, directory: Path) -> None:
    save_adapter(model, directory, record=RECORD, tokenizer=Tokenizer(), base_model_name="base")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("modules_to_save", [(), BOTH, ("embed_tokens",)])
def test_saved_adapter_is_read_by_peft_and_by_us(tmp_path, tied, modules_to_save):
    base = tiny_llama(tmp_path / "base", tied=tied)
    trained = shake(fresh(load(base), modules_to_save))
    save(trained, tmp_path / "out" / "pt_lora_model")
    want = logits(trained)
    assert not torch.equal(want, logits(load(base)))

    assert torch.equal(want, logits(PeftModel.from_pretrained(load(base), tmp_path / "out" / "pt_lora_model")))
    files = read_adapter(tmp_path / "out")
    again = attach_adapter(load(base), files, trainable=False)
    assert torch.equal(want, logits(again))
    assert torch.allclose(want, logits(again.merge_and_unload()), atol=1e-4)  # one rounding of B @ A in float32
    assert files.record == RECORD == read_record(tmp_path / "out" / "pt_lora_model")


def test_layout_on_disk_is_the_one_of_2023(tmp_path):
    base = tiny_llama(tmp_path / "base")
    model = fresh(load(base), BOTH)
    save(model, tmp_path / "a")
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "hanlin.json", "tokenizer.model",
    ]  # fmt: skip
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    by_hand = load_file(
        tiny_adapter(tmp_path / "b", base, embedding_rows=64, style="safetensors") / "adapter_model.safetensors"
    )
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in by_hand.items()}
    assert sum(t.numel() * 4 for t in tensors.values()) == expected_adapter_bytes(model)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("style", ["2023", "safetensors", "live"])
@pytest.mark.parametrize("rows", [None, 64, 80])
def test_attached_files_act_as_the_formula_says(tmp_path, style, rows):
    """W + B A alpha / r and replaced embeddings, by hand on the plain model; 80 rows grow the model."""
    base = tiny_llama(tmp_path / "base", kv_heads=2)
    files = read_adapter(tiny_adapter(tmp_path / "a", base, embedding_rows=rows, style=style))
    plain = load(base)
    if rows == 80:
        plain.resize_token_embeddings(80)
    state = plain.state_dict()
    for module, (a, b) in files.lora_pairs().items():
        state[f"{module}.weight"] += files.index.load(b) @ files.index.load(a) * (8.0 / 4)
    for name, stored in files.full_tensors().items():
        state[name].copy_(files.index.load(stored))
    attached = attach_adapter(load(base), files, trainable=False)
    assert logits(attached).shape[-1] == (rows or 64)
    assert torch.allclose(logits(attached), logits(plain), atol=1e-4)  # float32, another order of summation


def test_a_tied_model_stays_tied(tmp_path):
    base = tiny_llama(tmp_path / "base", tied=True)
    for names in (BOTH, ("embed_tokens",), ("lm_head",)):
        model = shake(fresh(load(base), names))
        inner = model.get_base_model()
        embed, head = inner.get_input_embeddings(), inner.get_output_embeddings()
        assert embed.modules_to_save["default"].weight is head.modules_to_save["default"].weight
        merged = model.merge_and_unload()
        assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight


def test_tied_base_refuses_an_adapter_that_was_trained_untied(tmp_path):
    untied, tied = tiny_llama(tmp_path / "untied"), tiny_llama(tmp_path / "tied", tied=True)
    files = read_adapter(tiny_adapter(tmp_path / "a", untied, embedding_rows=64))
    with pytest.raises(UserError, match="differ, but the model ties them"):
        attach_adapter(load(tied), files, trainable=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trained_parameters_are_float32_whatever_the_base(tmp_path, dtype):
    base = tiny_llama(tmp_path / "base", dtype="float16")
    model = fresh(load(base, dtype), BOTH)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    files = read_adapter(tiny_adapter(tmp_path / "a", base, embedding_rows=64))
    model = attach_adapter(load(base, dtype), files, trainable=True)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert len(trained) == 2 * 7 * 2 + 2
    frozen = attach_adapter(load(base, dtype), files, trainable=False)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert {p.dtype for p in frozen.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_with_frozen_embeddings_has_gradients(tmp_path, dtype):
    """Problem 8: "element 0 of tensors does not require grad" without the input gradients."""
    model = fresh(load(tiny_llama(tmp_path / "base"), dtype)).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    enable_input_gradients(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    assert any(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("vocab", "rank", "modules_to_save", "trained", "total"),
    [
        (49953, 8, BOTH, 429_203_456, 6_905_475_072),  # as the first generation's notebooks logged
        (49954, 8, BOTH, 429_211_648, 6_905_483_264),
        (55296, 64, BOTH, 612_892_672, 7_089_164_288),
        (55296, 64, (), 159_907_840, 7_089_164_288),
    ],
)
def test_counts_of_the_published_7b_runs(vocab, rank, modules_to_save, trained, total):
    config = LlamaConfig(vocab_size=vocab, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        adapted = new_adapter(
            model, rank=rank, alpha=32.0, dropout=0.05, target_modules=ALL_SEVEN, modules_to_save=modules_to_save
        )
    assert trainable_summary(adapted) == (trained, total)
    assert expected_adapter_bytes(adapted) == 4 * trained


def test_all_linear_leaves_the_head_out(tmp_path):
    model = fresh(load(tiny_llama(tmp_path / "base")), targets=("all-linear",))
    save(model, tmp_path / "a")
    files = read_adapter(tmp_path / "a")
    assert {m.rsplit(".", 1)[-1] for m in files.lora_pairs()} == set(ALL_SEVEN)


@pytest.mark.parametrize(
    ("targets", "modules_to_save", "message"),
    [
        (("q_prj",), (), "did you mean q_proj"),
        (("embed_tokens",), (), "train it whole"),
        (("q_proj",), ("embed_token",), "did you mean embed_tokens"),
    ],
)
def test_unknown_modules_are_named(tmp_path, targets, modules_to_save, message):
    with pytest.raises(UserError, match=message):
        fresh(load(tiny_llama(tmp_path / "base")), modules_to_save, targets)


def test_adapter_of_another_model_has_no_place(tmp_path):
    small, deep = tiny_llama(tmp_path / "small"), tiny_llama(tmp_path / "deep", layers=3)
    wide = tiny_llama(tmp_path / "wide", hidden=64)
    files = {base: read_adapter(tiny_adapter(tmp_path / f"a-{base.name}", base)) for base in (small, deep, wide)}
    with pytest.raises(UserError, match=r"14 tensors have no place .*layers\.2"):
        attach_adapter(load(small), files[deep], trainable=False)
    with pytest.raises(UserError, match=r"14 places of the model get no tensor.*layers\.2"):
        attach_adapter(load(deep), files[small], trainable=False)
    with pytest.raises(UserError, match="has shape"):
        attach_adapter(load(small), files[wide], trainable=False)
    less = dataclasses.replace(files[small], target_modules=("nothing",))
    with pytest.raises(UserError, match="does not fit the model"):
        attach_adapter(load(small), less, trainable=False)


def test_fewer_rows_than_the_model_are_refused(tmp_path):
    base = tiny_llama(tmp_path / "base")
    files = read_adapter(tiny_adapter(tmp_path / "a", base, embedding_rows=48))
    with pytest.raises(UserError, match="48 embedding rows, the model has 64"):
        attach_adapter(load(base), files, trainable=False)


def test_partitioned_parameters_are_not_saved_as_nothing(tmp_path):
    """Problem 2: ZeRO-3 leaves empty tensors on each rank; saving them must fail, and gathered ones must be used."""
    model = shake(fresh(load(tiny_llama(tmp_path / "base"))))
    gathered = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.empty(0)
    with pytest.raises(UserError, match="28 of 28 adapter tensors are empty"):
        save(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    save_adapter(model, tmp_path / "a", record=RECORD, tokenizer=Tokenizer(), base_model_name="b", state_dict=gathered)
    assert len(read_adapter(tmp_path / "a").lora_pairs()) == 14


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_leaves_the_old_adapter(tmp_path, monkeypatch, error):
    model = shake(fresh(load(tiny_llama(tmp_path / "base"))))
    save(model, tmp_path / "a")
    (tmp_path / "a" / "optimizer.pt").write_bytes(b"state")
    before = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()}
    shake(model)

    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("hanlin.model.adapter.save_file", full)
        with pytest.raises(UserError, match="no space left on the disk"):
            save(model, tmp_path / "a")
    assert {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()} == before
    assert list(tmp_path.glob(".*")) == []
    save(model, tmp_path / "a")
    after = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["adapter_model.safetensors"]
