"""Adapter directories of 2023 and of today, and the ways in which they are broken. Reference: files made by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanlin.errors import UserError
from hanlin.model.adapter_files import find_adapter, is_embedding, read_adapter
from tiny import ALL_SEVEN, tiny_adapter, tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("style", ["2023", "safetensors", "live"])
@pytest.mark.parametrize("rows", [None, 70])
def test_every_style_of_names_reads_alike(tmp_path, base, style, rows):
    files = read_adapter(tiny_adapter(tmp_path / "a", base, rank=2, alpha=5.0, embedding_rows=rows, style=style))
    assert set(files.lora_pairs()) == {
        f"model.layers.{layer}.{'self_attn' if m[0] in 'qkvo' else 'mlp'}.{m}" for layer in (0, 1) for m in ALL_SEVEN
    } - {f"model.layers.{layer}.mlp.o_proj" for layer in (0, 1)}
    assert set(files.full_tensors()) == ({"model.embed_tokens.weight", "lm_head.weight"} if rows else set())
    assert files.embedding_rows() == rows
    assert (files.r, files.lora_alpha, files.lora_dropout) == (2, 5.0, 0.05)
    assert files.target_modules == ALL_SEVEN
    assert files.scaling("model.layers.0.mlp.up_proj") == 2.5
    assert files.record is None
    obsolete = [notice for notice in files.notices if "enable_lora, merge_weights" in notice]
    assert len(obsolete) == (style == "2023")


def test_directories_written_by_peft(tmp_path, base):
    """As the library writes them today, tied embeddings included."""
    for tied in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / f"base-{tied}", tied=tied))
        config = LoraConfig(
            r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=tied,
            rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 6},
            use_rslora=True, lora_alpha=8,
        )  # fmt: skip
        get_peft_model(model, config).save_pretrained(tmp_path / f"a-{tied}")
        files = read_adapter(tmp_path / f"a-{tied}")
        tied_names = {"model.embed_tokens.weight"}
        assert set(files.full_tensors()) == (tied_names if tied else tied_names | {"lm_head.weight"})
        assert files.scaling("model.layers.0.self_attn.q_proj") == 8 / math.sqrt(4)
        assert files.scaling("model.layers.1.self_attn.q_proj") == 6 / math.sqrt(2)


def test_an_output_directory_is_searched(tmp_path, base):
    out = tmp_path / "out"
    adapter = tiny_adapter(out / "sft_lora_model", base)
    for given in (out, adapter, adapter / "adapter_config.json", adapter / "adapter_model.bin", str(out)):
        assert find_adapter(given) == adapter
    tiny_adapter(out / "checkpoint-10" / "sft_lora_model", base)
    assert find_adapter(out) == adapter
    assert find_adapter(out / "checkpoint-10") == out / "checkpoint-10" / "sft_lora_model"
    shutil.rmtree(adapter)
    assert find_adapter(out) == out / "checkpoint-10" / "sft_lora_model"
    tiny_adapter(out / "checkpoint-9" / "sft_lora_model", base)
    with pytest.raises(UserError, match=r"2 adapters \(checkpoint-9/sft_lora_model, checkpoint-10.*such as .*-10/sft"):
        find_adapter(out)
    tiny_adapter(out / "pt_lora_model", base)
    tiny_adapter(out / "sft_lora_model", base)
    with pytest.raises(UserError, match=r"2 adapters \(pt_lora_model, sft_lora_model\)"):
        find_adapter(out)


def test_places_that_hold_no_adapter(tmp_path, base):
    with pytest.raises(UserError, match="is not a folder"):
        find_adapter(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no adapter"):
        find_adapter(tmp_path)
    with pytest.raises(UserError, match="this is a full model; name it with --model"):
        find_adapter(base)
    adapter = tiny_adapter(tmp_path / "a", base)
    (adapter / "adapter_config.json").rename(tmp_path / "config")
    with pytest.raises(UserError, match=r"put the adapter_config.json that belongs to the weights"):
        find_adapter(adapter)
    (tmp_path / "config").rename(adapter / "adapter_config.json")
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match="but no weights"):
        read_adapter(adapter)


def test_the_443_bytes(tmp_path, base):
    """Problem 2: an adapter from which a filter had removed everything."""
    adapter = tiny_adapter(tmp_path / "a", base)
    torch.save({}, adapter / "adapter_model.bin", _use_new_zipfile_serialization=True)
    size = (adapter / "adapter_model.bin").stat().st_size
    with pytest.raises(UserError, match=f"is empty: {size} bytes with no tensors.*take a good checkpoint"):
        read_adapter(adapter)
    (adapter / "adapter_model.bin").unlink()
    save_file({"base_model.model.x.lora_A.weight": torch.empty(0)}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="only empty tensors"):
        read_adapter(adapter)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if n != Q.format("B")}, "has lora_A without its other half"),
        (lambda t: t | {Q.format("A"): torch.ones(3, 32)}, r"has rank 3 \(A\) and 4 \(B\), .* says 4"),
        (lambda t: t | {Q.format("B"): torch.empty(32, 0)}, "is empty"),
        (lambda t: t | {"something": torch.ones(2)}, "unknown tensor something"),
        (lambda t: t | {Q.format("magnitude_vector"): torch.ones(2)}, "unknown tensor"),
        (lambda t: {n: v for n, v in t.items() if "q_proj" not in n}, "names q_proj but .* does not hold it"),
        (
            lambda t: t | {Q.format(h).replace("q_", "x_"): t[Q.format(h)].clone() for h in "AB"},
            "target_modules lacks .*x_proj",
        ),
    ],
)
def test_weights_that_are_not_whole(tmp_path, base, change, message):
    adapter = tiny_adapter(tmp_path / "a", base, style="safetensors")
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(UserError, match=message):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"r": 0}, "r is 0; expected a positive whole number"),
        ({"r": None}, "r is None"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"enable_lora": [True]}, "enable_lora"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, base, config, message):
    with pytest.raises(UserError, match=message):
        read_adapter(tiny_adapter(tmp_path / "a", base, config=config))


def test_a_config_that_is_no_json(tmp_path, base):
    adapter = tiny_adapter(tmp_path / "a", base)
    (adapter / "adapter_config.json").write_text('{"r": 8')
    with pytest.raises(UserError, match="is not valid JSON"):
        read_adapter(adapter)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(UserError, match="holds list; expected an object"):
        read_adapter(adapter)


def test_embeddings_that_the_config_forgets(tmp_path, base):
    adapter = tiny_adapter(tmp_path / "a", base, embedding_rows=70)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": None}))
    with pytest.raises(UserError, match=r'write "modules_to_save": \["embed_tokens", "lm_head"\]'):
        read_adapter(adapter)


def test_both_files_side_by_side(tmp_path, base):
    adapter = tiny_adapter(tmp_path / "a", base)
    tiny_adapter(adapter, base, style="safetensors", seed=7)
    files = read_adapter(adapter)
    assert [f.name for f in files.index.files] == ["adapter_model.safetensors"]
    assert any("the safetensors are read" in notice for notice in files.notices)


def test_identity_does_not_depend_on_the_file_format(tmp_path, base):
    old, new = (
        read_adapter(tiny_adapter(tmp_path / s, base, style=s, embedding_rows=64)) for s in ("2023", "safetensors")
    )
    assert old.identity() == new.identity()
    other = read_adapter(tiny_adapter(tmp_path / "other", base, seed=9, embedding_rows=64))
    assert other.identity() != old.identity()


def test_name_is_that_of_the_run(tmp_path, base):
    assert read_adapter(tiny_adapter(tmp_path / "my-run" / "sft_lora_model", base)).name == "my-run"
    assert read_adapter(tiny_adapter(tmp_path / "chinese_alpaca_lora_7b", base)).name == "chinese_alpaca_lora_7b"


@pytest.mark.parametrize(
    ("tensor", "answer"),
    [
        ("model.embed_tokens.weight", True), ("lm_head.weight", True), ("transformer.wte.weight", True),
        ("lm_head.bias", False), ("model.norm.weight", False), ("model.layers.0.mlp.up_proj.weight", False),
        ("x", False),
    ],
)  # fmt: skip
def test_is_embedding(tensor, answer):
    assert is_embedding(tensor) is answer
