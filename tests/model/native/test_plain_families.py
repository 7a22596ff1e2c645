"""InternLM2, ChatGLM3 and GLM-4 against plain forward passes, and these against numbers of the old code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import plain
from golden import cases, formula, loss_of, short_run, tensors_of, worst, write_case, write_tensors
from hanlin.model.load import load_config, load_model, open_base
from hanlin.model.native.family import Cut


def written(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor], **layout: Any) -> Path:
    """A checkpoint as it is published: with code of its own, which must not be run, and nothing that names a family."""
    directory.mkdir(parents=True)
    name = "internlm2" if config["model_type"] == "internlm2" else "chatglm"
    mapped = {"AutoModelForCausalLM": f"modeling_{name}.ForCausalLM"}
    (directory / "config.json").write_text(json.dumps({**config, "auto_map": mapped}))
    (directory / f"modeling_{name}.py").write_text("raise SystemExit('the code of the checkpoint was run')\n")
    write_tensors(directory, tensors, **layout)
    return directory


def made(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: formula(*rest) for key, *rest in plain.formulas(shapes)}


def test_the_plain_passes_give_the_numbers_of_the_old_code() -> None:
    """ChatGLM2's own; and InternLM's, whose matrices are fused here as InternLM2 fuses them."""
    glm, first = cases()["chatglm2"], cases()["internlm-20b"]
    config = {**first["config"], "num_key_value_heads": 4, "rope_theta": 10000, "bias": False}
    rename = {
        "model.embed_tokens": "model.tok_embeddings", "input_layernorm": "attention_norm", "lm_head": "output",
        "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
    }  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for key, tensor in tensors_of("internlm-20b").items():
        new = key
        for old, name in rename.items():
            new = new.replace(old, name)
        tensors[new] = tensor
    for layer in range(2):
        parts = [tensors.pop(f"model.layers.{layer}.self_attn.{x}_proj.weight").split(8) for x in "qkv"]
        fused = [part for head in zip(*parts, strict=True) for part in head]  # every head has a key of its own
        tensors[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(fused)
    for case, forward, values, weights in (
        (glm, plain.chatglm, glm["config"], tensors_of("chatglm2")),
        (first, plain.internlm2, config, tensors),
    ):
        run = next(run for run in case["runs"] if not run.get("attention_mask") and len(run["input_ids"][0]) <= 16)
        found = plain.computed(forward, values, weights, {**run, "attention_mask": None})
        assert torch.allclose(torch.tensor(found["logits"]), torch.tensor(run["logits"]), atol=1e-5)
        assert case is first or found["loss"] == pytest.approx(glm["runs"][0]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"num_attention_heads": 8, "num_key_value_heads": 2},
        {"bias": True},
        {"rope_scaling": None, "rope_theta": 50000000},
        {"rope_scaling": {"type": "dynamic", "factor": 2.5}, "max_position_embeddings": 32},
        {"rope_scaling": {"type": "dynamic", "factor": 1.0}, "max_position_embeddings": 32},
        {"rope_scaling": {"type": "linear", "factor": 3.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize(("format", "shards"), [("safetensors", 2), ("bin", 3)])
def test_internlm2_in_every_shape(tmp_path: Path, change: dict[str, Any], format: str, shards: int) -> None:
    """Groups of one, two and four, biases, every rotary setting: rows of all lengths, each element of a gradient."""
    config = plain.INTERNLM2 | change
    tensors = made(plain.internlm2_shapes(config))
    directory = written(tmp_path / "m", config, tensors, format=format, shards=shards)
    assert load_config(directory).hanlin_family == "internlm2"
    for run in plain.runs(48)[2:]:
        expected = plain.computed(plain.internlm2, config, tensors, run)
        model = load_model(directory, dtype=torch.float32)
        assert worst(model, expected) <= 2e-5
        loss = loss_of(model, expected)
        assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)
        loss.backward()
        check_gradients(model, config, expected["grads"])


def check_gradients(model: Any, config: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """All gradients of the live model, with q, k and v dealt back into the fused rows one row at a time."""
    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    groups = config["num_key_value_heads"]
    size = config["hidden_size"] // config["num_attention_heads"]
    shared = config["num_attention_heads"] // groups
    for layer in range(config["num_hidden_layers"]):
        old, new = f"model.layers.{layer}.attention.wqkv", f"model.layers.{layer}.self_attn"
        for leaf in ("weight", "bias") if config["bias"] else ("weight",):
            rows = {x: iter(found.pop(f"{new}.{x}_proj.{leaf}")) for x in "qkv"}
            order = ["q"] * (shared * size) + ["k"] * size + ["v"] * size
            fused = torch.stack([next(rows[x]) for x in order * groups])
            assert distance(fused, expected[f"{old}.{leaf}"]) < 2e-5, (old, leaf)
    names = {
        "embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2", "lm_head": "output",
    }  # fmt: skip
    for key, gradient in found.items():
        old = key
        for new, name in names.items():
            old = old.replace(new, name)
        assert distance(gradient, expected[old]) < 2e-5, key


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference of an element, relative to the largest element."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def test_dynamic_rotary_acts_past_the_trained_length_alone(tmp_path: Path) -> None:
    long = next(run for run in cases()["internlm2"]["runs"] if run["label"] == "long")
    for number, scaling in enumerate((None, {"type": "dynamic", "factor": 3.0}, {"type": "linear", "factor": 2.0})):
        model = load_model(write_case(tmp_path / str(number), "internlm2", rope_scaling=scaling), dtype=torch.float32)
        assert worst(model, long) > 0.01
        if scaling is None or scaling["type"] == "dynamic":
            again = load_model(tmp_path / str(number), dtype=torch.float32)
            assert worst(again, short_run("internlm2")) <= 1e-5


def test_a_native_folder_of_internlm2_is_plain_llama(tmp_path: Path) -> None:
    """Saved once, it loads in transformers with the same logits."""
    tensors = made(plain.internlm2_shapes(plain.INTERNLM2))
    directory = written(tmp_path / "m", plain.INTERNLM2, tensors, shards=2)
    model = load_model(directory, dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert type(again).__name__ == "LlamaForCausalLM"
    for run in cases()["internlm2"]["runs"]:
        assert worst(AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32), run) <= 1e-5
    index = open_base(directory, "--model")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(index.load_rows(name, [31, 16, 0]), again.state_dict()[name][[31, 16, 0]])


def test_rows_that_take_turns() -> None:
    """Against counting by hand: three turns of 2 + 1 rows."""
    stored = torch.arange(9)[:, None]
    first, second = Cut(0, 2, 3, 3), Cut(2, 1, 3, 3)
    assert first.take(stored).flatten().tolist() == [0, 1, 3, 4, 6, 7] == first.stored_rows(range(6))
    assert second.take(stored).flatten().tolist() == [2, 5, 8] == second.stored_rows(range(3))
    assert (first.num_rows, second.num_rows) == (6, 3)


@pytest.mark.parametrize("folder", ["glm-4-9b-chat", "snapshot"])
def test_glm4_in_the_layout_with_code(tmp_path: Path, folder: str) -> None:
    """By its name, and by its code read as text; its three stop ids are kept."""
    shapes = {key: shape for key, shape, *_ in cases()["chatglm2"]["weights"]}
    tensors = made(shapes)
    directory = written(tmp_path / folder, plain.GLM4, tensors, shards=2)
    (directory / "modeling_chatglm.py").write_text("raise SystemExit\nbase = base * self.rope_ratio\n")
    assert load_config(directory).hanlin_family == "chatglm3"
    for run in plain.runs(100):
        expected = plain.computed(plain.chatglm, plain.GLM4, tensors, run)
        model = load_model(directory, dtype=torch.float32)
        assert worst(model, expected) <= 2e-5
        loss = loss_of(model, expected)
        assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)
    assert model.generation_config.eos_token_id == [36, 37, 38] and model.config.eos_token_id == [36, 37, 38]
    assert model.config.pad_token_id is None and model.generation_config.pad_token_id == 36
    loss_of(model, {**run, "input_ids": [[36, 5, 6, 7]]}).backward()
    assert model.get_input_embeddings().weight.grad[36].abs().sum() > 0  # what pads ends documents too
    divided = plain.computed(lambda *given: plain.chatglm(*given, ratio_of="positions"), plain.GLM4, tensors, run)
    assert worst(model, divided) > 0.1


def test_chatglm2_32k_divides_positions(tmp_path: Path) -> None:
    config = {**cases()["chatglm2"]["config"], "rope_ratio": 50}
    tensors = tensors_of("chatglm2")
    model = load_model(written(tmp_path / "chatglm2-6b-32k", config, tensors), dtype=torch.float32)
    divide = lambda *given: plain.chatglm(*given, ratio_of="positions")  # noqa: E731
    for run in plain.runs(100):
        assert worst(model, plain.computed(divide, config, tensors, run)) <= 1e-5
        assert worst(model, plain.computed(plain.chatglm, config, tensors, run)) > 0.1
