"""The split of training and validation rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.data.split import split_indices
from hanlin.errors import UserError


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.floats(0, 0.999), st.integers(0, 2**63))
def test_every_row_is_in_one_part(num_rows: int, fraction: float, seed: int) -> None:
    train, validation = split_indices(num_rows, fraction, seed)
    assert sorted(train + validation) == list(range(num_rows))
    assert train == sorted(train) and validation == sorted(validation)
    assert abs(len(validation) - num_rows * fraction) <= 1
    if num_rows >= 1:
        assert train
    if num_rows >= 2:
        assert bool(validation) == (fraction > 0)


def test_published_run() -> None:
    # Spec 3.2: 6,913 blocks at 0.001 were split into 6,906 and 7.
    train, validation = split_indices(6913, 0.001, 42)
    assert (len(train), len(validation)) == (6906, 7)


def test_rounding_up_is_not_led_astray_by_binary_fractions() -> None:
    assert 100 * 0.07 > 7
    assert len(split_indices(100, 0.07, 0)[1]) == 7


def test_split_is_a_function_of_the_seed_alone() -> None:
    first = split_indices(1000, 0.05, 42)
    random.seed(1)
    np.random.seed(1)
    state = random.getstate()
    assert split_indices(1000, 0.05, 42) == first
    assert random.getstate() == state
    assert split_indices(1000, 0.05, 43) != first
    assert split_indices(20, 0.2, 42)[1] == FIXED, (
        "another split would move rows of old runs from validation to training"
    )


FIXED = [4, 8, 15, 17]


def test_every_row_is_chosen_equally_often() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[split_indices(20, 0.1, seed)[1]] += 1
    # 2,000 draws of 2 out of 20: mean 200, standard deviation 13.4; five of them leave no room for chance.
    assert abs(counts - 200).max() < 67


def test_negative_seed() -> None:
    with pytest.raises(UserError, match="--seed: -1 is negative"):
        split_indices(10, 0.1, -1)
