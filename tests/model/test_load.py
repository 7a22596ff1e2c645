"""Loading: complete or refused in one line. Reference: transformers' own loader on the same files."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from hanlin.errors import UserError
from hanlin.model.load import load_model, model_from_config, parse_overrides, resolve_checkpoint
from hanlin.model.weights import open_weights
from tiny import tiny_adapter, tiny_llama

IDS = torch.arange(1, 7)[None]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_every_form_of_a_checkpoint_gives_the_same_model(tmp_path, tied, format, max_shard_size):
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / "reference", tied=tied)).eval()
    other = tiny_llama(tmp_path / "other", tied=tied, format=format, max_shard_size=max_shard_size)
    assert (len(open_weights(other, "--model").files) > 1) == (max_shard_size != "5GB")
    model = load_model(other, dtype=torch.float32).eval()
    assert torch.equal(model(IDS).logits, reference(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_wanted_one(tmp_path, dtype):
    model = load_model(tiny_llama(tmp_path / "m", dtype="float16"), dtype=dtype, attn_implementation="eager")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.config._attn_implementation == "eager"


def edit_config(directory: Path, **values: object) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return directory


def test_code_in_a_checkpoint_is_never_executed(tmp_path):
    model = edit_config(tiny_llama(tmp_path / "m"), auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (model / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match=r"auto_map names modeling_evil\.Evil.*never executed"):
        load_model(model, dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/hanlin-test-evil"),))


def test_a_pickle_with_code_is_refused(tmp_path):
    model = tiny_llama(tmp_path / "m", format="bin")
    torch.save({"model.norm.weight": torch.ones(2), "evil": Evil()}, model / "pytorch_model.bin")
    with pytest.raises(UserError, match="needs Python code to be executed"):
        load_model(model, dtype=torch.float32)
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError):
        load_model(model, dtype=torch.float32)
    assert not Path("/tmp/hanlin-test-evil").exists()


def rewrite(directory: Path, change) -> Path:
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if "q_proj" not in n}, r"lacks 2 weights .*q_proj"),
        (lambda t: t | {"model.extra.weight": torch.ones(2)}, r"holds unknown 1 weights .*model\.extra"),
        (
            lambda t: t | {"model.embed_tokens.weight": torch.ones(70, 32)},
            r"embed_tokens.weight has shape \[70, 32\], config.json makes it \[64, 32\].*vocab_size 70",
        ),
        (lambda t: t | {"model.norm.weight": torch.ones(16)}, r"model.norm.weight has shape \[16\]"),
    ],
)
def test_weights_that_do_not_fit_the_config(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_model(rewrite(tiny_llama(tmp_path / "m"), change), dtype=torch.float32)


def test_constants_of_2023_are_no_unknown_weights(tmp_path):
    model = rewrite(
        tiny_llama(tmp_path / "m"),
        lambda t: t | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)},
    )
    load_model(model, dtype=torch.float32)


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_a_missing_shard_is_named(tmp_path, format):
    model = tiny_llama(tmp_path / "m", format=format, max_shard_size="20KB")
    shard = sorted(model.glob(f"*.{format}"))[2]
    shard.unlink()
    with pytest.raises(UserError, match=f"names 6 files, of which 1 are missing: {shard.name}"):
        load_model(model, dtype=torch.float32)
    next(model.glob("*.index.json")).unlink()
    with pytest.raises(UserError, match="5 of 6 shards and no index"):
        load_model(model, dtype=torch.float32)


def test_shards_without_an_index_are_read_when_complete(tmp_path):
    model = tiny_llama(tmp_path / "m", max_shard_size="20KB")
    shapes = open_weights(model, "--model").shapes()
    next(model.glob("*.index.json")).unlink()
    assert open_weights(model, "--model").shapes() == shapes


@pytest.mark.parametrize("content", [b"", b"short", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_damaged_files(tmp_path, content, format):
    model = tiny_llama(tmp_path / "m", format=format)
    next(model.glob(f"*.{format}")).write_bytes(content)
    message = "Git LFS pointer" if content.startswith(b"version") else "cannot be read|needs Python code"
    with pytest.raises(UserError, match=message):
        load_model(model, dtype=torch.float32)


def test_a_file_cut_short(tmp_path):
    for format in ("safetensors", "bin"):
        model = tiny_llama(tmp_path / format, format=format)
        file = next(model.glob(f"*.{format}"))
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(UserError, match="cannot be read"):
            load_model(model, dtype=torch.float32)


def test_both_forms_side_by_side(tmp_path):
    model, other = tiny_llama(tmp_path / "m"), tiny_llama(tmp_path / "other", seed=5, format="bin")
    shutil.copy(other / "pytorch_model.bin", model)
    index = open_weights(model, "--model")
    assert [file.name for file in index.files] == ["model.safetensors"]
    assert any("the safetensors are read" in notice for notice in index.notices)


def test_places_that_hold_no_model(tmp_path):
    for make, message in (
        (lambda: tmp_path / "nothing", "does not exist"),
        (lambda: tmp_path, "holds no config.json"),
        (lambda: tiny_adapter(tmp_path / "a", tiny_llama(tmp_path / "m")), "name its base here"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_checkpoint(make())
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no model weights"):
        load_model(tmp_path / "m", dtype=torch.float32)
    (tmp_path / "m" / "consolidated.00.pth").touch()
    with pytest.raises(UserError, match="Meta's own files"):
        load_model(tmp_path / "m", dtype=torch.float32)
    assert resolve_checkpoint(tmp_path / "m" / "config.json") == tmp_path / "m"


def test_unknown_model_type(tmp_path):
    with pytest.raises(UserError, match="did you mean llama"):
        load_model(edit_config(tiny_llama(tmp_path / "m"), model_type="lama"), dtype=torch.float32)


def test_from_scratch(tmp_path):
    values = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = "num_hidden_layers=3,tie_word_embeddings=true,rms_norm_eps=1e-5"
    model = model_from_config(values, text, vocab_size=70, dtype=torch.bfloat16)
    assert model.config.num_hidden_layers == 3
    assert model.config.rms_norm_eps == 1e-5
    assert model.get_input_embeddings().weight.shape == (70, 32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values | {"num_hidden_layers": 1}))
    for config in (file, tmp_path, str(file)):
        assert len(model_from_config(config).model.layers) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_layers=2", "did you mean num_hidden_layers"),
        ("hidden_size", "has no ="),
        ("hidden_size=big", "expected a whole number"),
        ("hidden_size=1.5", "expected a whole number"),
        ("tie_word_embeddings=1", "expected true or false"),
        ("rms_norm_eps=x", "expected a number"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(UserError, match=message):
        parse_overrides(text, LlamaConfig())


def test_a_config_that_is_no_model():
    with pytest.raises(UserError, match=r"does not describe a model \(The hidden size \(30\)"):
        model_from_config({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4})
