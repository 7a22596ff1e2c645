"""Packing on worked examples, and that it is quick enough for real corpora."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from hanlin.tokens.pack import Packs, Piece, check_coverage, one_row_each, pack_rows, pack_stream, split_rows


def test_stream_cuts_and_continues() -> None:
    packs = pack_stream([5, 4, 3], 6)
    assert list(packs) == [((0, 0, 5),), ((1, 0, 4), (2, 0, 2)), ((2, 1, 3),)]
    assert packs[1][1].row == 2
    assert packs.lengths.tolist() == [5, 6, 2]


@pytest.mark.parametrize(
    ("lengths", "block", "order", "expected"),
    [
        ([], 4, None, []),
        ([0, 0], 4, None, []),
        ([10], 4, None, [((0, 0, 4),), ((0, 3, 7),), ((0, 6, 10),)]),
        ([4, 4], 4, None, [((0, 0, 4),), ((1, 0, 4),)]),
        ([0, 3, 0, 2, 0], 4, None, [((1, 0, 3),), ((3, 0, 2),)]),
        ([2, 3, 4], 4, [2, 0], [((2, 0, 4),), ((0, 0, 2),)]),
        ([2, 3, 4], 5, [1, 2, 0], [((1, 0, 3), (2, 0, 2)), ((2, 1, 4), (0, 0, 2))]),
    ],
)
def test_stream_examples(lengths: list[int], block: int, order: list[int] | None, expected: list[object]) -> None:
    assert list(pack_stream(lengths, block, order)) == expected


def test_rows_fill_the_fullest_block_with_room() -> None:
    # Longest first: 7 opens a block, 6 another; 4 fits beside 6 exactly; 3 beside 7 exactly; 2 opens the third.
    packs = pack_rows([3, 7, 2, 6, 4], 10)
    assert list(packs) == [((0, 0, 3), (1, 0, 7)), ((2, 0, 2),), ((3, 0, 6), (4, 0, 4))]
    assert packs.fill(10) == pytest.approx(22 / 30)


def test_one_row_each_is_the_unpacked_form() -> None:
    assert list(one_row_each([3, 0, 2])) == [((0, 0, 3),), ((2, 0, 2),)]


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="row 1 has 11 tokens, more than a block of 10"):
        pack_rows([3, 11], 10)
    for block in (1, 0, -1):
        with pytest.raises(ValueError, match="at least two tokens"):
            pack_stream([3], block)


def test_coverage_finds_lost_and_doubled_tokens() -> None:
    check_coverage(Packs.of([[(0, 0, 3)], [(1, 0, 2)]]), [3, 2])
    check_coverage(Packs.of([[(0, 0, 2)], [(0, 1, 3), (1, 0, 2)]]), [3, 2])
    for faulty in (
        [[(0, 0, 3)]],
        [[(0, 0, 3)], [(1, 1, 2)]],
        [[(0, 0, 3)], [(1, 0, 2), (1, 0, 2)]],
        [[(0, 0, 3), (0, 0, 3)], [(1, 0, 2)]],
        [[(0, 0, 4)], [(1, 1, 2)]],
        [[(0, 0, 1)], [(0, 1, 3)], [(1, 0, 2)]],
    ):
        with pytest.raises(AssertionError):
            check_coverage(Packs.of(faulty), [3, 2])


def test_packs_behave_as_a_sequence() -> None:
    packs = pack_stream([5, 4, 3], 3)
    assert packs[-1] == packs[len(packs) - 1]
    assert list(packs[1:3]) == [packs[1], packs[2]]
    assert pickle.loads(pickle.dumps(packs)) == packs
    assert packs != pack_stream([5, 4, 3], 4)
    with pytest.raises(IndexError):
        packs[len(packs)]


def test_two_hundred_thousand_rows_take_seconds_and_few_bytes() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 300, size=200_000).clip(max=4096)
    start = time.process_time()
    rows = pack_rows(lengths, 4096)
    stream = pack_stream(lengths, 4096)
    seconds = time.process_time() - start
    check_coverage(rows, lengths)
    check_coverage(stream, lengths)
    assert rows.fill(4096) > 0.999
    assert stream.fill(4096) > 0.999
    # About 0.7 s on one core here; a slow quadratic way would take minutes.
    assert seconds < 10
    assert rows.pieces.nbytes == 24 * len(lengths)


def test_real_poetry_fills_blocks(shared_data: Path) -> None:
    """51,179 real records, by their bytes instead of tokens: best fit leaves less than one place in a hundred empty."""
    import json
    import lzma

    with lzma.open(shared_data / "zh-poetry" / "instructions-51k.json.xz", "rt", encoding="utf-8") as file:
        records = json.load(file)
    lengths = [min(1024, sum(len(str(value)) for value in record.values())) for record in records]
    packs = pack_rows(lengths, 1024)
    check_coverage(packs, lengths)
    assert packs.fill(1024) > 0.99


def test_rows_alone_in_pieces() -> None:
    assert list(split_rows([70, 3, 0, 32], 32)) == [
        (Piece(0, 0, 32),), (Piece(0, 31, 63),), (Piece(0, 62, 70),), (Piece(1, 0, 3),), (Piece(3, 0, 32),),
    ]  # fmt: skip
    check_coverage(split_rows([70, 3, 0, 32], 7), [70, 3, 0, 32])
    assert list(split_rows([5, 6], 4, order=[1])) == [(Piece(1, 0, 4),), (Piece(1, 3, 6),)]
