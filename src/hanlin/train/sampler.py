"""The order of the rows: a function of seed and epoch alone, on any number of processes, each row once an epoch.

Processes must all make the same number of batches. Libraries fill the last ones with rows from the start, which then
count twice; here they are filled with empty rows (one token, nothing trained), which add nothing to a mean over
trained tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset, Sampler

from hanlin.tokens.collate import Feature, PackedDataset
from hanlin.types import IGNORE_INDEX


def filled_size(num_rows: int, multiple: int) -> int:
    """``num_rows`` rounded up to whole global batches: 57 rows in batches of 2 x 4 are 64."""
    return -(-num_rows // multiple) * multiple


class FilledDataset(Dataset[Feature]):
    """The rows of a data set, and behind them as many empty rows as whole batches need."""

    def __init__(self, rows: PackedDataset, multiple: int) -> None:
        self.rows = rows
        self.size = filled_size(len(rows), multiple)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Feature:
        if index < len(self.rows):
            return self.rows[index]
        return empty_row()


def empty_row() -> Feature:
    """One token that is not trained: id 0, which every vocabulary has."""
    return Feature(
        input_ids=np.zeros(1, dtype=np.int64),
        labels=np.full(1, IGNORE_INDEX, dtype=np.int64),
        lengths=np.ones(1, dtype=np.int64),
    )


class EpochSampler(Sampler[int]):
    """Row numbers in the order of one epoch, the empty rows last, so that only the last batch holds any."""

    def __init__(self, num_rows: int, size: int, seed: int) -> None:
        self.num_rows = num_rows
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before an epoch; a resumed run is told the epoch it is in."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        yield from order.tolist()
        yield from range(self.num_rows, self.size)
