"""Packed documents do not see one another: logits and gradients of a packed batch equal those of separate runs.

The trap: with a cache, or with an attention mask of ones, transformers attends across packed documents without a word.
The same measure that shows isolation here must show those two leaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hanlin.model.attention import packing_leak
from hanlin.model.loss import attach_loss
from hanlin.tokens.collate import PackedDataset, collate
from hanlin.tokens.pack import Packs, one_row_each
from hanlin.tokens.store import StoreWriter, TokenStore
from hanlin.types import IGNORE_INDEX

V = 61
LENGTHS = [6, 4, 3, 1, 7]
PACKS = Packs.of([[(0, 0, 6), (1, 0, 4), (2, 0, 3)], [(3, 0, 1), (4, 0, 7)]])


@pytest.fixture(params=["llama", "qwen2"])
def family(request: pytest.FixtureRequest) -> Any:
    return {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[request.param]


def build(family: Any, back_end: str) -> nn.Module:
    torch.manual_seed(0)
    config, kind = family
    model = kind._from_config(
        config(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        ),
        attn_implementation=back_end,
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store") as writer:
        for length in LENGTHS:
            ids = generator.integers(0, V, length)
            labels = np.where(generator.random(length) < 0.7, ids, IGNORE_INDEX)
            labels[-1] = ids[-1]
            writer.add(ids.tolist(), labels.tolist(), 0)
        return writer.close({})


def packed(store: TokenStore) -> dict[str, Tensor]:
    """Two packs of 13 and 8 tokens, padded to 16: batch above one, documents of one token, and a padding tail."""
    dataset = PackedDataset(store, PACKS)
    return collate([dataset[0], dataset[1]], pad_id=0, pad_to_multiple_of=16)


def separate(store: TokenStore) -> list[dict[str, Tensor]]:
    dataset = PackedDataset(store, one_row_each(store.lengths))
    return [collate([dataset[row]], pad_id=0) for row in range(len(store))]


def difference(model: nn.Module, store: TokenStore, **options: Any) -> float:
    """Largest difference of logits of packed documents to those of the documents alone."""
    batch = packed(store)
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **options).logits
        alone = [model(input_ids=one["input_ids"]).logits[0] for one in separate(store)]
    worst = 0.0
    for index, pack in enumerate(PACKS):
        at = 0
        for row, start, stop in pack:
            part = together[index, at : at + stop - start]
            worst = max(worst, float((part - alone[row]).abs().max()))
            at += stop - start
    return worst


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_logits_equal_separate_runs_and_leaks_are_seen(family: Any, back_end: str, store: TokenStore) -> None:
    model = build(family, back_end)
    # Logits are about 3 here; other block shapes add up in another order, a few units of float32 rounding.
    assert difference(model, store, use_cache=False) < 2e-5
    ones = torch.ones(2, 16, dtype=torch.int64)
    assert difference(model, store, use_cache=False, attention_mask=ones) > 0.1
    assert difference(model, store, use_cache=True) > 0.1


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_attached_loss_and_gradients_equal_separate_runs(family: Any, back_end: str, store: TokenStore) -> None:
    model = build(family, back_end)
    model.config.use_cache = True  # the default of every checkpoint, which the attached loss must not follow
    assert model.training
    batch = packed(store)
    items = int((batch["labels"] != IGNORE_INDEX).sum())

    def gradients(batches: list[dict[str, Tensor]]) -> tuple[float, dict[str, Tensor]]:
        model.zero_grad()
        total = 0.0
        for one in batches:
            loss = model(**one, num_items_in_batch=items).loss
            loss.backward()
            total += loss.item()
        return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    with attach_loss(model):
        together, packed_gradients = gradients([batch])
        alone, separate_gradients = gradients(separate(store))
    assert together == pytest.approx(alone, rel=1e-5)
    for name, gradient in separate_gradients.items():
        worst = (packed_gradients[name] - gradient).abs().max()
        assert worst <= 1e-5 * max(1.0, float(gradient.abs().max())), name
    # The model's own way through a mask of ones has other gradients: the comparison above can fail.
    model.zero_grad()
    model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), use_cache=False).loss.backward()
    weight = "model.layers.1.self_attn.v_proj.weight"
    leaked = dict(model.named_parameters())[weight].grad
    assert (leaked - separate_gradients[weight]).abs().max() > 1e-3


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_right_padding_needs_no_mask(family: Any, back_end: str, store: TokenStore) -> None:
    model = build(family, back_end)
    dataset = PackedDataset(store, one_row_each(store.lengths))
    batch = collate([dataset[row] for row in range(len(store))], pad_id=0, pad_to_multiple_of=8)
    mask = torch.arange(8) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        without = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        masked = model(input_ids=batch["input_ids"], attention_mask=mask.long(), use_cache=False).logits
    torch.testing.assert_close(without[mask], masked[mask], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(without[~mask], masked[~mask], atol=1e-3)  # the padding itself does differ


def test_leak_is_measured(family: Any) -> None:
    for back_end in ("sdpa", "eager"):
        model = build(family, back_end)
        assert packing_leak(model) == 0.0
        assert model.training


def test_a_recurrent_model_leaks_and_is_found() -> None:
    """State space models carry their state through a block whatever the position ids say."""
    model = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert packing_leak(model) > 1e-6
