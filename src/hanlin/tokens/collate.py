"""From packs to batches: where pieces become segments that cannot see one another.

A batch carries no attention mask. With position ids that restart at each piece, no mask and ``use_cache=False`` the
attention of transformers builds the block-diagonal causal mask itself; a mask of ones or a cache would switch that
off without a word. Padding is on the right, where causal attention never looks::

    input_ids     a0 a1 a2 b0 b1 PAD PAD      (pieces a and b)
    position_ids   0  1  2  0  1   0   1
    labels         .  a1 a2  .  b1  .   .      (. is IGNORE_INDEX: the first token of a piece has nothing before it)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hanlin.tokens.images import ImageSlots, stack_pixels, take_paths
from hanlin.tokens.pack import Packs
from hanlin.tokens.store import TokenStore
from hanlin.types import IGNORE_INDEX


class Feature(TypedDict):
    """One pack: ids and labels int64 [T], and the tokens of each piece int64 [P]; their sum is T."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    lengths: NDArray[np.int64]


class PackedDataset(Dataset[Feature]):
    """Packs of a store, by index. Item i depends on i alone, so order, workers and resuming change nothing in it."""

    def __init__(self, store: TokenStore, packs: Packs) -> None:
        self.store = store
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> Feature:
        pack = self.packs[index]
        lengths = np.array([stop - start for _, start, stop in pack], dtype=np.int64)
        ids = np.empty(int(lengths.sum()), dtype=np.int64)
        labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int64)
        at = 0
        for (row, start, stop), length in zip(pack, lengths.tolist(), strict=True):
            tokens = self.store.row(row)
            ids[at : at + length] = tokens.ids[start:stop]
            trained = tokens.trained[start:stop]
            labels[at : at + length][trained] = tokens.ids[start:stop][trained]
            at += length
        return Feature(input_ids=ids, labels=labels, lengths=lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [K]: tokens of each pack, for batches of similar length."""
        return self.packs.lengths


def collate(
    features: Sequence[Feature],
    *,
    pad_id: int,
    pad_to_multiple_of: int | None = None,
    images: ImageSlots | None = None,
) -> dict[str, torch.Tensor]:
    """One batch: ``input_ids``, ``labels`` and ``position_ids``, each int64 [B, T]; deliberately no attention mask.

    T is the longest pack, rounded up to ``pad_to_multiple_of`` tokens. Labels of the first token of every piece are
    IGNORE_INDEX: no target crosses a document, and ``(labels != IGNORE_INDEX).sum()`` is exactly the number of
    predicted tokens.

    The padding tail is a segment of its own. Only when no row holds more than one piece do the positions run on
    through the tail instead: then no row needs a mask, and attention takes its faster causal path.

    With ``images``, pictures that the rows name are read now: ``pixel_values`` float32 [B, I, 3, S, S], absent where
    no row has any. Raises ImageError for one that is no longer there.
    """
    num_tokens = max(len(feature["input_ids"]) for feature in features)
    if pad_to_multiple_of:
        num_tokens += -num_tokens % pad_to_multiple_of
    shape = len(features), num_tokens
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    packed = any(len(feature["lengths"]) > 1 for feature in features)
    position_ids = np.empty(shape, dtype=np.int64)
    pictures: list[list[str]] = []
    for index, feature in enumerate(features):
        length = len(feature["input_ids"])
        ids = feature["input_ids"]
        if images is not None:
            ids, paths = take_paths(ids, images)
            pictures.append(paths)
        input_ids[index, :length] = ids
        labels[index, :length] = feature["labels"]
        starts = np.cumsum(feature["lengths"]) - feature["lengths"]
        labels[index, starts] = IGNORE_INDEX
        segments = feature["lengths"]
        if packed and length < num_tokens:
            segments = np.append(segments, num_tokens - length)
        position_ids[index] = _positions(segments, num_tokens)
    batch: dict[str, Any] = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
    if images is not None and (pixels := stack_pixels(pictures, images)) is not None:
        batch["pixel_values"] = pixels
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def _positions(segments: NDArray[np.int64], num_tokens: int) -> NDArray[np.int64]:
    """int64 [T]: 0, 1, 2 ... from the start of each segment; the last one runs on to ``num_tokens``."""
    starts = np.zeros(num_tokens, dtype=np.int64)
    ends = np.cumsum(segments)[:-1]
    starts[ends] = ends
    return np.arange(num_tokens, dtype=np.int64) - np.maximum.accumulate(starts)
