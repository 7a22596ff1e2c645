"""Which rows train and which validate: a function of the seed alone."""

from __future__ import annotations

import math

import numpy as np

from hanlin.errors import UserError


def split_indices(num_rows: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers for training and for validation, each in ascending order; together each of 0..num_rows-1 once.

    ``fraction`` is the share of validation rows, 0 <= fraction < 1. The count is rounded up, as the older scripts'
    library does (6,913 blocks at 0.001 give 7), so that a fraction above 0 holds out at least one row of two or more;
    at least one row always trains.

    The generator is its own, so no other draw of random numbers changes the split; only raw PCG64 output is used, which
    numpy promises to keep, so no version of numpy or Python changes it either. Raises UserError for a negative seed.
    """
    assert 0 <= fraction < 1 and num_rows >= 0
    if seed < 0:
        raise UserError("--seed", f"{seed} is negative", expected="a whole number from 0")
    num_validation = min(math.ceil(num_rows * fraction - 1e-9), num_rows - 1)
    if fraction > 0 and num_rows >= 2:
        num_validation = max(num_validation, 1)
    if num_validation <= 0:
        return list(range(num_rows)), []
    keys = np.random.PCG64(seed).random_raw(num_rows)
    order = np.argsort(keys, kind="stable")  # [R]; equal keys keep their order on every machine
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[order[:num_validation]] = True
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()
