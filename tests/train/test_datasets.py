"""Samples and splits: a function of the rows and the seed alone, over the whole set, without overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanlin.config.data import SourceConfig
from hanlin.data.ledger import Ledger
from hanlin.tokens.collate import PackedDataset
from hanlin.tokens.pack import check_coverage
from hanlin.tokens.store import StoreWriter
from hanlin.train.datasets import Datasets, assemble
from hanlin.train.prepare import Rows


def rows(directory: Path, count: int, first: int = 0) -> Rows:
    """``count`` rows; row i is i+1 copies of token ``first + i`` modulo 7 tokens long."""
    with StoreWriter(directory) as writer:
        for i in range(count):
            ids = [first + i] * (i % 7 + 1)
            writer.add(ids, ids, num_bytes=10 * len(ids))
        store = writer.close({})
    return Rows(store, Ledger(given=count), (), str(directory), False)


def tokens(dataset: PackedDataset | None) -> list[int]:
    """All ids of a data set."""
    assert dataset is not None
    return [int(token) for index in range(len(dataset)) for token in dataset[index]["input_ids"]]


def make(
    tmp_path: Path, layout: Any = "rows", seed: int = 1, validation: Rows | None = None, **source: Any
) -> Datasets:
    prepared = rows(tmp_path / f"s{seed}-{len(list(tmp_path.iterdir()))}", 50)
    return assemble(prepared, validation, SourceConfig(dataset=("x",), **source), layout=layout, seed=seed)


def test_the_split_is_disjoint_and_complete(tmp_path: Path) -> None:
    data = make(tmp_path, validation_split_percentage=0.2)
    train, held = set(tokens(data.train)), set(tokens(data.validation))
    assert not train & held
    assert train | held == set(range(50))
    assert len(held) == 10
    assert data.validation_bytes == sum(10 * (i % 7 + 1) for i in held)


@pytest.mark.parametrize("layout", ["rows", "blocks", "pieces"])
def test_every_layout_holds_every_token_once(tmp_path: Path, layout: str) -> None:
    data = make(tmp_path, layout, max_length=8)
    check_coverage(data.train.packs, [i % 7 + 1 for i in range(50)])
    assert set(tokens(data.train)) == set(range(50))
    assert data.packed is (layout == "blocks")


def test_samples_are_drawn_over_the_whole_set_by_the_seed(tmp_path: Path) -> None:
    first = set(tokens(make(tmp_path, max_train_samples=20).train))
    assert len(first) == 20
    assert max(first) > 30, "not the first rows"
    assert first == set(tokens(make(tmp_path, max_train_samples=20).train))
    assert first != set(tokens(make(tmp_path, max_train_samples=20, seed=2).train))


def test_named_validation_rows_win_over_the_split(tmp_path: Path) -> None:
    other = rows(tmp_path / "other", 9, first=1000)
    data = make(tmp_path, validation=other, validation_split_percentage=0.5, max_eval_samples=4)
    assert set(tokens(data.train)) == set(range(50))
    held = set(tokens(data.validation))
    assert len(held) == 4
    assert min(held) >= 1000
    assert data.keys[1] == other.key
    assert data.ledger.given == 59


def test_rows_in_both_parts_are_counted(tmp_path: Path) -> None:
    same = rows(tmp_path / "same", 9)
    assert "9 of 9 rows" in make(tmp_path, validation=same).notices[0]
    assert make(tmp_path, validation=rows(tmp_path / "new", 9, first=1000)).notices == ()
    assert np.array_equal(same.store.row(3).ids, [3, 3, 3, 3])
