"""From prepared rows to what is trained and what is evaluated: samples, split, blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hanlin.config.data import SourceConfig
from hanlin.data.ledger import Ledger
from hanlin.data.split import split_indices
from hanlin.tokens.collate import PackedDataset
from hanlin.tokens.pack import Packs, one_row_each, pack_stream, split_rows
from hanlin.tokens.store import TokenStore
from hanlin.train.prepare import Rows

_MOST_COMPARED = 1_000_000
"""Rows of each part above which the search for rows that stand in both is left out (it holds 8 bytes a row)."""


@dataclass(frozen=True, slots=True)
class Datasets:
    """Both parts of a run's data and what is to be said of them."""

    train: PackedDataset
    validation: PackedDataset | None
    validation_bytes: int
    """UTF-8 bytes of the text that is evaluated."""
    ledger: Ledger
    keys: tuple[str, ...]
    """Keys of the prepared rows: the identity of the data."""
    packed: bool
    """Whether a block can hold several documents."""
    summary: str
    notices: tuple[str, ...]


Layout = Literal["rows", "blocks", "pieces"]
"""Whole rows, one each; blocks of ``max_length`` tokens with several rows; or rows alone, in pieces of that length."""


def assemble(rows: Rows, validation: Rows | None, source: SourceConfig, *, layout: Layout, seed: int) -> Datasets:
    """Draw samples, split, and lay the rows out.

    Everything is a function of the rows and the seed alone. Named validation files win over the split.
    """
    chosen = _draw(len(rows.store), source.max_train_samples, seed)
    held_out: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    if validation is None and source.validation_split_percentage > 0:
        train_part, held_part = split_indices(len(chosen), source.validation_split_percentage, seed)
        held_out, chosen = chosen[held_part], chosen[train_part]
    eval_rows = validation if validation is not None else rows
    if validation is not None:
        held_out = np.arange(len(validation.store), dtype=np.int64)
    if source.max_eval_samples is not None and len(held_out) > source.max_eval_samples:
        held_out = held_out[_draw(len(held_out), source.max_eval_samples, seed)]

    train = PackedDataset(rows.store, _packs(rows.store, chosen, source.max_length, layout))
    evaluated = None
    if len(held_out):
        evaluated = PackedDataset(eval_rows.store, _packs(eval_rows.store, held_out, source.max_length, layout))
    ledger = Ledger()
    ledger.merge(rows.ledger)
    if validation is not None:
        ledger.merge(validation.ledger)
    unit = f"blocks of {source.max_length} tokens" if layout == "blocks" else "rows"
    tokens = int(rows.store.lengths[chosen].sum())
    summary = f"{len(chosen):,} rows, {tokens:,} tokens, {len(train):,} {unit}"
    if evaluated is not None:
        summary += f"; {len(held_out):,} rows to evaluate"
    return Datasets(
        train=train,
        validation=evaluated,
        validation_bytes=int(eval_rows.store.num_bytes[held_out].sum()),
        ledger=ledger,
        keys=(rows.key, *([validation.key] if validation is not None else [])),
        packed=layout == "blocks",
        summary=summary,
        notices=_overlap(rows.store, chosen, eval_rows.store, held_out),
    )


def _draw(num_rows: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """All row numbers in order, or ``limit`` of them drawn over the whole set, in order. int64."""
    if limit is None or limit >= num_rows:
        return np.arange(num_rows, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(num_rows, size=limit, replace=False)).astype(np.int64)


def _packs(store: TokenStore, rows: NDArray[np.int64], max_length: int, layout: Layout) -> Packs:
    if layout == "pieces":
        return split_rows(store.lengths, max_length, order=rows)
    if layout == "blocks":
        return pack_stream(store.lengths, max_length, order=rows)
    whole = one_row_each(store.lengths)
    return Packs(whole.pieces[rows], np.arange(len(rows) + 1, dtype=np.int64))


def _overlap(
    train: TokenStore, train_rows: NDArray[np.int64], evaluated: TokenStore, eval_rows: NDArray[np.int64]
) -> tuple[str, ...]:
    """A line when rows are trained and evaluated alike: the evaluation then measures memory, not learning."""
    if not len(eval_rows) or max(len(train_rows), len(eval_rows)) > _MOST_COMPARED:
        return ()
    seen = {_row_hash(train, row) for row in train_rows.tolist()}
    shared = sum(_row_hash(evaluated, row) in seen for row in eval_rows.tolist())
    if not shared:
        return ()
    return (
        f"{shared:,} of {len(eval_rows):,} rows to evaluate are trained on too: "
        "their part of the evaluation says nothing about new text",
    )


def _row_hash(store: TokenStore, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(store.row(row).ids.tobytes(), digest_size=8).digest(), "little")
