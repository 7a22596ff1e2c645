"""Batches against a rendering written token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from hanlin.tokens.collate import PackedDataset, collate
from hanlin.tokens.pack import Packs, one_row_each, pack_stream
from hanlin.tokens.store import StoreWriter, TokenStore

X = -100
PAD = 99
ROWS = [([10, 11, 12, 13], [X, X, 12, 13]), ([20, 21], [20, 21]), ([30, 31, 32], [X, 31, X])]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    with StoreWriter(tmp_path / "store") as writer:
        for ids, labels in ROWS:
            writer.add(ids, labels, 0)
        return writer.close({})


def batch_of(store: TokenStore, packs: Packs, **options: int) -> dict[str, list[list[int]]]:
    dataset = PackedDataset(store, packs)
    batch = collate([dataset[i] for i in range(len(dataset))], pad_id=PAD, **options)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_packed_batch(store: TokenStore) -> None:
    packs = Packs.of([[(0, 0, 4), (1, 0, 2)], [(2, 0, 3)]])
    assert batch_of(store, packs, pad_to_multiple_of=4) == {
        "input_ids": [[10, 11, 12, 13, 20, 21, PAD, PAD], [30, 31, 32, *[PAD] * 5]],
        "labels": [[X, X, 12, 13, X, 21, X, X], [X, 31, *[X] * 6]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]],
    }


def test_unpacked_batch_needs_no_mask(store: TokenStore) -> None:
    """Positions run on through the padding when nothing is packed: then no back end has to build a mask."""
    batch = batch_of(store, one_row_each(store.lengths))
    assert batch["position_ids"] == [[0, 1, 2, 3]] * 3
    assert batch["input_ids"][1] == [20, 21, PAD, PAD]
    assert batch["labels"] == [[X, X, 12, 13], [X, 21, X, X], [X, 31, X, X]]


def test_a_continued_row_starts_anew(store: TokenStore) -> None:
    batch = batch_of(store, pack_stream(store.lengths, 3))
    assert batch == {
        "input_ids": [[10, 11, 12], [12, 13, PAD], [20, 21, PAD], [30, 31, 32]],
        "labels": [[X, X, 12], [X, 13, X], [X, 21, X], [X, 31, X]],
        "position_ids": [[0, 1, 2]] * 4,
    }


def test_there_is_no_attention_mask(store: TokenStore) -> None:
    """A mask of ones would let packed rows see one another (see tests/model/test_packing_isolation.py)."""
    assert set(batch_of(store, one_row_each(store.lengths))) == {"input_ids", "labels", "position_ids"}


def test_workers_give_the_same_batches(store: TokenStore) -> None:
    dataset = PackedDataset(store, pack_stream(store.lengths, 3))

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        loader = DataLoader(
            dataset,
            batch_size=2,
            num_workers=workers,
            collate_fn=lambda features: collate(features, pad_id=PAD),
            multiprocessing_context="fork" if workers else None,
        )
        return list(loader)

    for one, other in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
