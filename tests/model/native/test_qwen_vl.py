"""Qwen-VL against the numbers of its own code of 2023: features, logits, and what must not agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM

from golden import cases, expected_logits, write_case
from hanlin.errors import UserError
from hanlin.model.load import load_model
from hanlin.model.loss import attach_loss, decoder_of
from hanlin.model.native import own_types, qwen_vision
from hanlin.model.native.adapters import native_targets
from hanlin.model.native.qwen_vl import QwenVLForCausalLM

TOLERANCE = 1e-4
"""Of the logits (spec section 9); the largest seen is 6.4e-5, of logits up to 10."""
RUN = cases()["qwen-vl"]["runs"][0]
IDS = torch.tensor(RUN["input_ids"])


def golden_pixels() -> Tensor:
    """[1, 1, 3, 56, 56] by the words of the case, without the product."""
    values = (37 * np.arange(40 * 70 * 3) + 11) % 256
    picture = Image.fromarray(values.astype(np.uint8).reshape(40, 70, 3))
    resized = np.asarray(picture.resize((56, 56), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy(((resized - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None, None].copy())


def load(directory: Path, **options: Any) -> Any:
    return load_model(directory, dtype=torch.float32, **options).eval()


@torch.no_grad()
def difference(model: Any, pixels: Tensor | None = None) -> float:
    logits = model(input_ids=IDS, pixel_values=golden_pixels() if pixels is None else pixels).logits
    return float((logits[:, -RUN["logits_last"] :] - expected_logits(RUN)).abs().max())


@pytest.mark.parametrize("purpose", ["any", "answers"])
@pytest.mark.parametrize(("format", "shards"), [("safetensors", 1), ("safetensors", 3), ("bin", 1), ("bin", 3)])
def test_features_and_logits(tmp_path: Path, format: str, shards: int, purpose: Any) -> None:
    model = load(write_case(tmp_path / "m", "qwen-vl", format=format, shards=shards), purpose=purpose)
    with torch.no_grad():
        features = model.model.visual(golden_pixels()[0])[0, :2, :8]
    expected = torch.tensor(RUN["vision_features_first_two_queries_first_eight"])
    assert features.sub(expected).abs().max() <= TOLERANCE
    assert difference(model) <= TOLERANCE


def test_saved_and_loaded_by_plain_transformers(tmp_path: Path) -> None:
    load(write_case(tmp_path / "m", "qwen-vl")).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "hanlin_qwen_vl"
    own_types.register()
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert isinstance(plain, QwenVLForCausalLM) and difference(plain.eval()) <= TOLERANCE
    assert difference(load(tmp_path / "saved")) <= TOLERANCE
    assert not any(".visual." in name and name.startswith("transformer") for name in plain.state_dict())
    table = load(tmp_path / "saved", purpose="all weights").train().model.visual.attn_pool.pos_embed
    assert not table.requires_grad


# ---- negative controls ----


def changed(part: str, change: Callable[[Tensor], Tensor]) -> Any:
    def apply(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert any(part in key for key in tensors)
        return {key: change(tensor) if part in key else tensor for key, tensor in tensors.items()}

    return apply


def thirds_for_heads(tensor: Tensor) -> Tensor:
    """Rows [head, (q, k, v)] as [(q, k, v), head]: the layout of the text part."""
    return tensor.unflatten(0, (4, 3, -1)).transpose(0, 1).flatten(0, 2)


def thirds(*order: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat([tensor.chunk(3)[index] for index in order])


WRONG = {
    "layout of q, k, v": changed("resblocks.0.attn.in_proj", thirds_for_heads),
    "q and k of the resampler": changed("attn_pool.attn.in_proj", thirds(1, 0, 2)),
    "k and v of the resampler": changed("attn_pool.attn.in_proj", thirds(0, 2, 1)),
    "transposed projection": changed("visual.proj", lambda t: t.T.contiguous()),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_layout_is_seen(tmp_path: Path, what: str) -> None:
    assert difference(load(write_case(tmp_path / "m", "qwen-vl", change=WRONG[what]))) > 0.05


def values_with_positions(self: Any, x: Tensor) -> Tensor:
    x = self.ln_kv(self.kv_proj(x))
    key = x + qwen_vision.resized(self.pos_embed, x.shape[1])
    return self.attn((self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1), key, key)


def gelu_by_tanh(self: Any, x: Tensor) -> Tensor:
    return self.c_proj(torch.nn.functional.gelu(self.c_fc(x), approximate="tanh"))


def antialiased(table: Tensor, places: int) -> Tensor:
    grid = table.reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
    return grid.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("what", ["value with positions", "gelu", "antialias", "eps"])
def test_a_wrong_formula_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "value with positions":
        monkeypatch.setattr(qwen_vision.Resampler, "forward", values_with_positions)
    elif what == "gelu":
        monkeypatch.setattr(qwen_vision.VisionMLP, "forward", gelu_by_tanh)
    elif what == "antialias":
        monkeypatch.setattr(qwen_vision, "resized", antialiased)
    else:
        monkeypatch.setattr(qwen_vision, "EPS", 1e-3)
    assert difference(load(write_case(tmp_path / "m", "qwen-vl"))) > 4 * TOLERANCE


# ---- pictures and ids ----


def span(*around: int) -> list[int]:
    return [30, *([32] * 256), 31, *around]


def test_pictures_enter_where_they_stand(tmp_path: Path) -> None:
    """Two pictures in one row, one in the other: each row as if it were alone, and in order."""
    model = load(write_case(tmp_path / "m", "qwen-vl"))
    one, other = golden_pixels()[0, 0], golden_pixels()[0, 0].flip(1)
    two = [5, *span(6), *span(7, 8)]
    single = [9] * (len(two) - 260) + [*span(7, 8)]
    assert len(single) == len(two)
    with torch.no_grad():
        pixels = torch.stack([torch.stack([one, other]), torch.stack([other, torch.zeros_like(other)])])
        both = model(input_ids=torch.tensor([two, single]), pixel_values=pixels).logits
        alone = [
            model(input_ids=torch.tensor([ids]), pixel_values=pixels[index : index + 1, :count]).logits[0]
            for index, (ids, count) in enumerate([(two, 2), (single, 1)])
        ]
        swapped = model(input_ids=torch.tensor([two]), pixel_values=pixels[:1].flip(1)).logits[0]
    assert torch.allclose(both[0], alone[0], atol=1e-4) and torch.allclose(both[1], alone[1], atol=1e-4)
    assert (swapped - alone[0])[-1].abs().max() > 0.1
    assert (swapped - alone[0])[0].abs().max() < 1e-5  # before the first picture


def test_generation_reads_the_picture_once_and_for_every_beam(tmp_path: Path) -> None:
    model = load(write_case(tmp_path / "m", "qwen-vl"), purpose="answers")
    options = {"attention_mask": torch.ones_like(IDS), "pixel_values": golden_pixels(), "do_sample": False}
    found = model.generate(input_ids=IDS, max_new_tokens=6, **options)[0, -6:]
    ids = IDS
    with torch.no_grad():
        for _ in range(6):
            logits = model(input_ids=ids, pixel_values=golden_pixels(), use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, ids[0, -6:])
    with torch.no_grad():  # a start id that the model itself writes begins no picture
        cache = model(input_ids=IDS, pixel_values=golden_pixels(), use_cache=True).past_key_values
        model(input_ids=torch.tensor([[30]]), pixel_values=golden_pixels(), past_key_values=cache)
    other = model.generate(input_ids=IDS, max_new_tokens=6, **{**options, "pixel_values": golden_pixels().flip(3)})
    assert not torch.equal(found, other[0, -6:])
    two = torch.tensor([[*span(6), *span(7, 8)]])
    pixels = torch.stack([golden_pixels()[0, 0], golden_pixels()[0, 0].flip(1)])[None]
    beams = model.generate(
        input_ids=two, attention_mask=torch.ones_like(two), pixel_values=pixels, num_beams=3, max_new_tokens=3
    )
    assert beams.shape == (1, two.shape[1] + 3)


def test_ids_and_pictures_that_do_not_fit(tmp_path: Path) -> None:
    model = load(write_case(tmp_path / "m", "qwen-vl"))
    with pytest.raises(ValueError, match="2 pictures in the ids"):
        model(input_ids=torch.tensor([[*span(6), *span(7)]]), pixel_values=golden_pixels())
    for broken in (IDS[:, :200], torch.tensor([[30, *([32] * 255), 31, 5, 5]])):
        with pytest.raises(ValueError, match="256 places and the end id"):
            model(input_ids=broken, pixel_values=golden_pixels())


def test_a_trained_tower_takes_part_in_a_batch_without_pictures(tmp_path: Path) -> None:
    """So that ranks stay in step; and a frozen one costs nothing."""
    model = load_model(write_case(tmp_path / "m", "qwen-vl"), dtype=torch.float32).train()
    ids = torch.arange(12).reshape(2, 6)
    expected = load(write_case(tmp_path / "n", "qwen-vl"))(input_ids=ids).logits
    logits = model(input_ids=ids).logits
    assert torch.equal(logits, expected)
    logits.sum().backward()
    gradients = [parameter.grad for parameter in model.model.visual.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    model.model.visual.requires_grad_(False)
    calls: list[int] = []
    model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    model(input_ids=ids).logits.sum().backward()
    assert not calls


def test_the_chunked_loss_sees_the_picture(tmp_path: Path) -> None:
    model = load_model(write_case(tmp_path / "m", "qwen-vl"), dtype=torch.float32).train()
    labels = torch.full_like(IDS, -100)
    labels[:, -5:] = IDS[:, -5:]
    losses = []
    for pixels in (golden_pixels(), golden_pixels().flip(3)):
        whole = model(input_ids=IDS, pixel_values=pixels).logits[:, -6:-1]
        expected = torch.nn.functional.cross_entropy(whole[0], IDS[0, -5:])
        with attach_loss(model):
            loss = model(input_ids=IDS, pixel_values=pixels, labels=labels).loss
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) > 1e-3
    loss.backward()
    assert decoder_of(model).visual.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("output_dim", 64, "visual.output_dim is 64: it is not hidden_size"),
        ("heads", 3, "visual.heads is 3: it does not divide width"),
        ("patch_size", 15, "visual.patch_size is 15: it does not divide image_size"),
        ("image_start_id", None, "has no field image_start_id"),
        ("n_queries", 64, "n_queries is 64"),
    ],
)
def test_a_tower_that_cannot_be_built(tmp_path: Path, field: str, value: Any, message: str) -> None:
    visual = {**cases()["qwen-vl"]["config"]["visual"], field: value}
    with pytest.raises(UserError, match=message):
        load(write_case(tmp_path / "m", "qwen-vl", visual=visual))


def test_old_names_of_lora_targets(tmp_path: Path) -> None:
    """As in the model of 2023: c_attn is of the text alone, c_proj of both networks, attn.c_proj of the text."""
    model = load(write_case(tmp_path / "m", "qwen-vl"))
    modules = [name for name, _ in model.named_modules()]

    def meant(*names: str) -> set[str]:
        return set(native_targets(model.config, names, modules))

    assert meant("c_attn", "attn.c_proj") == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert meant("c_proj") == {"c_proj", "o_proj", "down_proj"}
    assert meant("mlp.c_proj") == {"mlp.c_proj", "down_proj"}
    assert meant("attn.in_proj") == {"attn.in_proj"}
    assert not any(name.endswith("q_proj") for name in modules if ".visual." in name)


def test_the_rules_past_the_trained_length(tmp_path: Path) -> None:
    """The text part alone, as a Qwen v1 of the same weights answers, whose rules have golden numbers of their own."""

    def text_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if ".visual." not in name}

    text = write_case(
        tmp_path / "text", "qwen-vl", change=text_alone, visual=None, hanlin_family="qwen", seq_length=128
    )
    model = write_case(tmp_path / "m", "qwen-vl", seq_length=128)
    with torch.no_grad():
        expected = load(text, purpose="answers")(input_ids=IDS).logits
        assert torch.allclose(load(model, purpose="answers")(input_ids=IDS).logits, expected, atol=1e-5)
        assert not torch.allclose(load(model)(input_ids=IDS).logits, expected, atol=1e-1)
