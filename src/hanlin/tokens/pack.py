"""Which tokens share a block: pure functions on row lengths, which never copy a token.

``pack_stream`` (pre-training) lays rows one after another and fills blocks of ``block_size`` tokens. A row that does
not fit goes on in the next block, which repeats its last token: the first token of a piece has nothing before it that
could predict it, so without the repetition one target would be lost at every cut::

    lengths 5 4 3, block_size 6     block 0: row 0 [0:5]     block 1: row 1 [0:4] row 2 [0:2]     block 2: row 2 [1:3]

``pack_rows`` (for instruction tuning) keeps rows whole and fills blocks with those that fit best. In both, a piece is a
segment of its own: pieces of one block never see one another (:mod:`hanlin.tokens.collate`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Piece(NamedTuple):
    """Tokens ``start`` .. ``stop`` (exclusive) of row ``row``."""

    row: int
    start: int
    stop: int


Pack = tuple[Piece, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Packs(Sequence[Pack]):
    """A list of packs in two arrays, 24 bytes a piece: millions of tuples would not fit beside the data."""

    pieces: NDArray[np.int64]
    """int64 [P, 3]: row, start, stop of every piece, pack after pack."""
    bounds: NDArray[np.int64]
    """int64 [K + 1]: pack k is pieces bounds[k] .. bounds[k + 1]."""

    @classmethod
    def of(cls, packs: Sequence[Sequence[tuple[int, int, int]]]) -> Packs:
        """The same packs in arrays."""
        pieces = [piece for pack in packs for piece in pack]
        bounds = np.cumsum([0, *(len(pack) for pack in packs)], dtype=np.int64)
        return cls(np.array(pieces, dtype=np.int64).reshape(-1, 3), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Pack: ...
    @overload
    def __getitem__(self, index: slice) -> Packs: ...
    def __getitem__(self, index: int | slice) -> Pack | Packs:
        if isinstance(index, slice):
            return Packs.of([self[i] for i in range(*index.indices(len(self)))])
        index = range(len(self))[index]
        rows = self.pieces[self.bounds[index] : self.bounds[index + 1]].tolist()
        return tuple(Piece(*row) for row in rows)

    def __iter__(self) -> Iterator[Pack]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Packs):
            return NotImplemented
        return np.array_equal(self.pieces, other.pieces) and np.array_equal(self.bounds, other.bounds)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [K]: tokens of each pack."""
        ends = np.concatenate(([0], np.cumsum(self.pieces[:, 2] - self.pieces[:, 1])))
        return np.diff(ends[self.bounds])

    def fill(self, block_size: int) -> float:
        """Share of the blocks' places that hold a token, 0 to 1."""
        return float(self.lengths.sum() / (len(self) * block_size)) if len(self) else 1.0


def one_row_each(lengths: ArrayLike) -> Packs:
    """Unpacked rows in the same form: one whole row in each pack. Rows without tokens are in no pack."""
    sizes = np.asarray(lengths, dtype=np.int64)
    rows = np.flatnonzero(sizes)
    return Packs(np.stack([rows, np.zeros_like(rows), sizes[rows]], axis=1), np.arange(len(rows) + 1))


def split_rows(lengths: ArrayLike, block_size: int, order: ArrayLike | None = None) -> Packs:
    """Each row for itself, in pieces of at most ``block_size`` tokens: rows never share a pack or lose a target.

    ``lengths`` and ``order`` as in :func:`pack_stream`. A row of 70 tokens and blocks of 32 give 0..32, 31..63, 62..70.
    """
    _check_block_size(block_size)
    sizes = np.asarray(lengths, dtype=np.int64)
    rows = np.arange(len(sizes)) if order is None else np.asarray(order, dtype=np.int64)
    rows = rows[sizes[rows] > 0]
    counts = 1 + np.maximum(0, -(-(sizes[rows] - block_size) // (block_size - 1)))
    owners = np.repeat(rows, counts)
    starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * (block_size - 1)
    pieces = np.stack([owners, starts, np.minimum(starts + block_size, sizes[owners])], axis=1)
    return Packs(pieces.astype(np.int64), np.arange(len(pieces) + 1, dtype=np.int64))


def pack_stream(lengths: ArrayLike, block_size: int, order: ArrayLike | None = None) -> Packs:
    """Rows one after another in blocks of at most ``block_size`` tokens. No token is lost as a target.

    ``lengths`` int [R] are tokens per row; ``order`` int [R'] says which rows follow one another (default: all, as
    given). A row that does not fit continues in the next block, from its last token on; only the last block may be
    shorter. Rows without tokens have no piece.
    """
    _check_block_size(block_size)
    sizes = np.asarray(lengths, dtype=np.int64)
    rows = np.arange(len(sizes)) if order is None else np.asarray(order, dtype=np.int64)
    ends = np.cumsum(sizes[rows], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        return Packs.of([])
    begins = ends - sizes[rows]
    block_begins = np.array(_block_begins(begins.tolist(), total, block_size), dtype=np.int64)
    # A piece begins where a row begins and where a block begins, and ends where the next one begins.
    cuts = np.unique(np.concatenate((begins, block_begins, [total])))
    starts, stops = cuts[:-1], cuts[1:]
    # The last row that begins at or before a piece is its row; "right" steps over rows without tokens.
    place = np.searchsorted(begins, starts, side="right") - 1
    within = starts - begins[place]
    # A row that goes on repeats one token: within 7..12 becomes 6..12.
    pieces = np.stack([rows[place], np.maximum(within - 1, 0), stops - begins[place]], axis=1)
    bounds = np.append(np.searchsorted(starts, block_begins), len(starts))
    return Packs(pieces.astype(np.int64), bounds.astype(np.int64))


def _block_begins(begins: list[int], total: int, block_size: int) -> list[int]:
    """Places in the stream at which blocks begin; one that begins inside a row has a place less for new tokens.

    A row never leaves its first token alone at the end of a block, where it could predict nothing.
    """
    found = []
    at, inside = 0, False
    while at < total:
        found.append(at)
        at += block_size - inside
        row_begin = begins[bisect_right(begins, at) - 1]
        if at - row_begin == 1:
            at = row_begin
        inside = at != row_begin
    return found


def pack_rows(lengths: ArrayLike, block_size: int) -> Packs:
    """Whole rows in blocks of at most ``block_size`` tokens: best fit, longest first.

    Each row goes into the fullest block that still has room for it (Johnson 1973: at most 11/9 of the fewest possible
    blocks). Rows in a pack are in the order of the data, and packs in the order of their first rows. The result
    depends on the lengths alone. Rows without tokens are in no pack. Raises ValueError when a row is longer than a
    block: what becomes of such rows was decided before.
    """
    _check_block_size(block_size)
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and sizes.max() > block_size:
        row = int(sizes.argmax())
        raise ValueError(f"row {row} has {sizes[row]} tokens, more than a block of {block_size}")
    longest_first = np.argsort(-sizes, kind="stable")
    packs: list[list[int]] = []
    # Packs by the room that they have left, and the set of rooms that occur, as bits of one integer: shifting away
    # the rooms below ``size`` leaves the best fit as the lowest bit. Costs about a microsecond for a block of 4096.
    with_room: list[list[int]] = [[] for _ in range(block_size + 1)]
    rooms = 0
    for row, size in zip(longest_first.tolist(), sizes[longest_first].tolist(), strict=True):
        if size == 0:
            continue
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            pack = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = block_size, len(packs)
            packs.append([])
        packs[pack].append(row)
        with_room[room - size].append(pack)
        rooms |= 1 << (room - size)
    in_order = sorted(sorted(pack) for pack in packs)
    flat = np.array([row for pack in in_order for row in pack], dtype=np.int64)
    pieces = np.stack([flat, np.zeros_like(flat), sizes[flat]], axis=1)
    return Packs(pieces, np.cumsum([0, *(len(pack) for pack in in_order)], dtype=np.int64))


def check_coverage(packs: Packs, lengths: ArrayLike) -> None:
    """Raise AssertionError unless each token of each row (``lengths`` int [R]) is new in exactly one piece.

    A piece that does not begin its row begins with one token of the piece before, as context.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    row, start, stop = packs.pieces.T
    begins = np.concatenate(([0], np.cumsum(sizes)))
    new = start + (start > 0)
    assert ((start >= 0) & (new < stop) & (stop <= sizes[row])).all(), "a piece reaches outside its row"
    # In the order of the data, pieces must join without a gap and without an overlap.
    by_token = np.argsort(begins[row] + start, kind="stable")
    first, last = (begins[row] + new)[by_token], (begins[row] + stop)[by_token]
    joints = np.concatenate(([0], last)), np.append(first, begins[-1])
    assert np.array_equal(*joints), "a token is in no piece, or in two"


def unpack(packs: Packs, blocks: Sequence[NDArray[Any]], num_rows: int) -> list[NDArray[Any]]:
    """Rows from packed blocks: ``blocks`` holds one array [length of pack k] for each pack; inverse of packing."""
    parts: list[list[tuple[int, NDArray[Any]]]] = [[] for _ in range(num_rows)]
    for pack, block in zip(packs, blocks, strict=True):
        at = 0
        for row, start, stop in pack:
            parts[row].append((start, block[at + (start > 0) : at + stop - start]))
            at += stop - start
        assert at == len(block), "a block is as long as its pieces together"
    empty = np.empty(0, dtype=blocks[0].dtype if blocks else np.int64)
    return [np.concatenate([empty, *(part for _, part in sorted(row, key=_start))]) for row in parts]


def _start(part: tuple[int, NDArray[Any]]) -> int:
    return part[0]


def _check_block_size(block_size: int) -> None:
    if block_size < 2:
        raise ValueError(f"a block has at least two tokens, one to predict the other, not {block_size}")
