"""Adapters of 2023 on fused modules: the same logits as adding B @ A to the fused matrices themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from golden import VARIANTS, cases, tensors_of, write_case
from hanlin.errors import UserError
from hanlin.export.merge import merge_checkpoint
from hanlin.model.adapter import attach_adapter, new_adapter
from hanlin.model.adapter_files import read_adapter
from hanlin.model.facts import read_base
from hanlin.model.identity import weights_identity
from hanlin.model.load import load_config, load_model
from hanlin.model.native.adapters import native_adapter, native_targets
from hanlin.model.weights import open_weight_file

IDS = torch.arange(12)[None] + 4
RANK, ALPHA = 3, 6.0

FUSED = {
    "qwen-v1": ("c_attn", "attn.c_proj", "mlp.c_proj", "w1", "w2"),
    "baichuan-7b": ("W_pack", "o_proj", "gate_proj"),
    "baichuan2-7b": ("W_pack",),
    "baichuan-13b": ("W_pack", "down_proj"),
    "chatglm2": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    "internlm-7b": ("q_proj", "v_proj"),
    "internlm2": ("wqkv", "wo", "w1", "w2", "w3"),
}


def ends(key: str, targets: tuple[str, ...]) -> bool:
    return any(key.endswith(f".{target}.weight") for target in targets)


def old_adapter(
    directory: Path, name: str, targets: tuple[str, ...], full: tuple[str, ...] = (), **config: Any
) -> dict[str, Tensor]:
    """Write an adapter of 2023 by hand; returns the whole updates of the fused matrices, by their old names."""
    generator = torch.Generator().manual_seed(5)
    updates, stored = {}, {}
    for key, weight in tensors_of(name).items():
        if ends(key, targets):
            a = 0.3 * torch.randn(RANK, weight.shape[1], generator=generator)
            b = 0.3 * torch.randn(weight.shape[0], RANK, generator=generator)
            module = key.removesuffix(".weight")
            stored[f"base_model.model.{module}.lora_A.weight"] = a
            stored[f"base_model.model.{module}.lora_B.weight"] = b
            updates[key] = ALPHA / RANK * (b @ a)
        elif ends(f".{key}", full):
            stored[f"base_model.model.{key}"] = updates[key] = 0.3 * torch.randn(weight.shape, generator=generator)
    settings = {
        "base_model_name_or_path": "x", "bias": "none", "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA,
        "target_modules": list(targets), "modules_to_save": list(full) or None, "enable_lora": None, **config,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    torch.save(stored, directory / "adapter_model.bin")
    return updates


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def updated(directory: Path, name: str, updates: dict[str, Tensor], full: tuple[str, ...] = ()) -> Any:
    """The model of the fused weights with the updates in them: the reference."""
    change = lambda tensors: {  # noqa: E731
        key: updates[key] if ends(f".{key}", full) else tensor + updates.get(key, 0) for key, tensor in tensors.items()
    }
    return load_model(write_case(directory, name, change=change), dtype=torch.float32)


@pytest.mark.parametrize("name", list(FUSED))
def test_an_old_adapter_is_cut_exactly(tmp_path: Path, name: str) -> None:
    base = write_case(tmp_path / "base", name)
    updates = old_adapter(tmp_path / "a", name, FUSED[name])
    expected = logits(updated(tmp_path / "reference", name, updates))
    model = attach_adapter(load_model(base, dtype=torch.float32), read_adapter(tmp_path / "a"), trainable=False)
    assert torch.allclose(logits(model), expected, atol=2e-5)
    assert not torch.allclose(logits(load_model(base, dtype=torch.float32)), expected, atol=0.1)


@pytest.mark.parametrize("name", [name for name in FUSED if "13b" not in name])
def test_merged_it_is_a_plain_model(tmp_path: Path, name: str) -> None:
    base = write_case(tmp_path / "base", name, rows=64)
    tokenizer(base)
    head = {"qwen-v1": "wte", "chatglm2": "word_embeddings", "internlm2": "tok_embeddings"}.get(name, "embed_tokens")
    updates = old_adapter_of_64(tmp_path / "a", name, FUSED[name], (head, "lm_head"))
    merge_checkpoint(base, [tmp_path / "a"], tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    live = attach_adapter(load_model(base, dtype=torch.float32), read_adapter(tmp_path / "a"), trainable=False)
    assert torch.allclose(logits(plain), logits(live), atol=1e-4)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["hanlin_family"] == VARIANTS[name] and "auto_map" not in values
    assert updates


def old_adapter_of_64(directory: Path, name: str, targets: tuple[str, ...], full: tuple[str, ...]) -> bool:
    """As ``old_adapter``, for a vocabulary of 64, with embedding and head trained whole."""
    full = (full[0], {"chatglm2": "output_layer", "internlm2": "output"}.get(name, full[1]))
    old_adapter(directory, name, targets, full)
    stored = torch.load(directory / "adapter_model.bin", weights_only=True)
    stored = {
        key: torch.randn(64, tensor.shape[1], generator=torch.Generator().manual_seed(1))
        if tensor.shape[0] == 40
        else tensor
        for key, tensor in stored.items()
    }
    torch.save(stored, directory / "adapter_model.bin")
    return len(stored) > 2


def tokenizer(directory: Path) -> None:
    """A sentencepiece tokenizer of 64 pieces."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog again and again"] * 10),
        model_writer=model, vocab_size=64, model_type="bpe", minloglevel=2, num_threads=1,
    )  # fmt: skip
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def test_what_stays_and_what_is_renamed(tmp_path: Path) -> None:
    config = load_config(write_case(tmp_path / "base", "chatglm2"))
    old_adapter(tmp_path / "a", "chatglm2", ("query_key_value", "dense_h_to_4h"), ("word_embeddings",))
    files = read_adapter(tmp_path / "a")
    found = native_adapter(files, config)
    assert found.target_modules == ("q_proj", "k_proj", "v_proj", "gate_up_proj")
    assert found.modules_to_save == ("embed_tokens",)
    assert set(found.full_tensors()) == {"model.embed_tokens.weight"}
    pairs = found.lora_pairs()
    a, b = pairs["model.layers.1.self_attn.k_proj"]
    stored = torch.load(tmp_path / "a" / "adapter_model.bin", weights_only=True)
    old = "base_model.model.transformer.encoder.layers.1.self_attention.query_key_value"
    assert torch.equal(found.index.load(a), stored[f"{old}.lora_A.weight"])
    assert torch.equal(found.index.load(b), stored[f"{old}.lora_B.weight"][32:48])  # 4 heads of 8, then 2 groups of 8
    assert found.scaling("model.layers.1.self_attn.k_proj") == files.scaling("x") == ALPHA / RANK
    # Who it is does not change with its names.
    assert (
        found.identity() == files.identity() == weights_identity(open_weight_file(tmp_path / "a" / "adapter_model.bin"))
    )
    assert native_adapter(found, config) is found
    assert native_adapter(files, load_config(write_case(tmp_path / "other", "xverse"))) is files


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = load_model(write_case(tmp_path / "base", "qwen-v1"), dtype=torch.float32)
    old_adapter(tmp_path / "a", "qwen-v1", ("c_attn",))
    stored = torch.load(tmp_path / "a" / "adapter_model.bin", weights_only=True)
    torch.save({key: tensor[:95] if "lora_B" in key else tensor for key, tensor in stored.items()},
               tmp_path / "a" / "adapter_model.bin")  # fmt: skip
    with pytest.raises(UserError, match=r"lora_B\.weight has shape \[95, 3\]; expected 32 \+ 32 \+ 32 rows"):
        attach_adapter(base, read_adapter(tmp_path / "a"), trainable=False)
    old_adapter(tmp_path / "b", "qwen-v1", ("c_attn",), target_modules=".*c_attn")
    with pytest.raises(UserError, match=r"has settings .* that have no native form"):
        attach_adapter(base, read_adapter(tmp_path / "b"), trainable=False)


@pytest.mark.parametrize(
    ("name", "old", "native"),
    [
        ("qwen-v1", "c_attn", "q_proj,k_proj,v_proj"),
        ("qwen-v1", "c_proj", "o_proj,down_proj"),
        ("qwen-v1", "attn.c_proj,w1,w2", "o_proj,up_proj,gate_proj"),
        ("qwen-v1", "transformer.h.1.attn.c_attn", ",".join(f"model.layers.1.self_attn.{x}_proj" for x in "qkv")),
        ("baichuan-7b", "W_pack,o_proj", "q_proj,k_proj,v_proj,o_proj"),
        ("baichuan2-13b", "W_pack", "q_proj,k_proj,v_proj"),
        ("chatglm2", "query_key_value,dense", "q_proj,k_proj,v_proj,o_proj"),
        ("chatglm2", "dense_h_to_4h,dense_4h_to_h", "gate_up_proj,down_proj"),
        ("internlm-7b", "q_proj", "q_proj"),
        ("internlm2", "wqkv", "q_proj,k_proj,v_proj"),
        ("internlm2", "wo,w1,w3,w2", "o_proj,gate_proj,up_proj,down_proj"),
        ("chatglm3", "query_key_value,dense", "q_proj,k_proj,v_proj,o_proj"),
        ("qwen-v1", "nonsense", "nonsense"),
    ],
)
def test_old_names_of_targets(tmp_path: Path, name: str, old: str, native: str) -> None:
    directory = write_case(tmp_path / "m", name)
    facts = read_base(directory)
    assert native_targets(facts.config, old.split(","), facts.modules) == tuple(native.split(","))
    if old == "nonsense":
        return
    model = new_adapter(
        load_model(directory, dtype=torch.float32),
        rank=2,
        alpha=4,
        dropout=0,
        target_modules=old.split(","),
        modules_to_save=(),
    )
    trained = {key.split(".lora_A")[0] for key, p in model.named_parameters() if "lora_A" in key and p.requires_grad}
    assert trained == {
        f"base_model.model.{module}"
        for module in facts.modules
        if any(module == end or module.endswith(f".{end}") for end in native.split(","))
    }


def test_old_names_hold_after_a_merge_and_not_for_others(tmp_path: Path) -> None:
    load_model(write_case(tmp_path / "m", "qwen-v1"), dtype=torch.float32).save_pretrained(tmp_path / "saved")
    modules = read_base(tmp_path / "saved").modules
    assert native_targets(load_config(tmp_path / "saved"), ("c_attn",), modules) == ("q_proj", "k_proj", "v_proj")
    assert native_targets(load_config(tmp_path / "saved"), ("c_attn",), ["h.0.attn.c_attn"]) == ("c_attn",)


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan2-13b"])
def test_a_normalised_head_trained_with_an_adapter(tmp_path: Path, name: str) -> None:
    """Gradient through the division; the merged model is plain; the head of the adapter is stored as it was trained."""
    directory = write_case(tmp_path / "m", name)
    model = new_adapter(
        load_model(directory, dtype=torch.float32), rank=2, alpha=4, dropout=0, target_modules=["W_pack"],
        modules_to_save=["lm_head"],
    )  # fmt: skip
    run = next(run for run in cases()[name]["runs"] if run["training"])
    ids = torch.tensor(run["input_ids"])
    out = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(out, torch.tensor(run["logits"]), atol=1e-5)
    torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    head = dict(model.named_parameters())["base_model.model.lm_head.modules_to_save.default.weight"]
    # Stored rows are divided already: the gradient is the golden one times each row's length, at right angles to it.
    assert float((head.grad * head).sum(dim=1).abs().max()) < 1e-6
    lengths = tensors_of(name)["lm_head.weight"].norm(dim=1, keepdim=True)
    assert float((head.grad / lengths).norm()) == pytest.approx(run["grad_norms"]["lm_head.weight"], rel=2e-5)
