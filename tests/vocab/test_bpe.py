"""Learned merges against a slow version that counts everything anew each time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.vocab.bpe import learn_merges

WORDS = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(tuple), st.integers(1, 4), max_size=8
)


def plainly(words: dict[tuple[str, ...], int], num: int, taken: set[str], max_length: int) -> list[tuple[str, str]]:
    rows = [(list(word), count) for word, count in words.items()]
    merges: list[tuple[str, str]] = []
    known = set(taken)
    while len(merges) < num:
        counts: Counter[tuple[str, str]] = Counter()
        for row, count in rows:
            for pair in pairwise(row):
                counts[pair] += count
        usable = [
            pair
            for pair, count in counts.items()
            if count >= 2 and "".join(pair) not in known and len("".join(pair)) <= max_length
        ]
        if not usable:
            break
        best = min(usable, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        known.add("".join(best))
        for row, _ in rows:
            position = 0
            while position + 1 < len(row):
                if (row[position], row[position + 1]) == best:
                    row[position : position + 2] = ["".join(best)]
                position += 1
    return merges


@settings(max_examples=150, deadline=None)
@given(words=WORDS, taken=st.sets(st.sampled_from(["ab", "aa", "bc"])), max_length=st.integers(2, 6))
def test_quick_and_plain_learning_agree(words: dict[tuple[str, ...], int], taken: set[str], max_length: int) -> None:
    quick = learn_merges(words, 12, taken=taken, max_length=max_length)
    assert [(merge.left, merge.right) for merge in quick] == plainly(words, 12, taken, max_length)


def test_runs_are_joined_from_the_left() -> None:
    merges = learn_merges({("a",) * 5: 3}, 3)
    assert [(merge.piece, merge.count) for merge in merges] == [("aa", 12), ("aaa", 3), ("aaaaa", 3)]
