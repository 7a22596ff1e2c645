"""Rows above the limit: what goes first, and what always stays."""

from __future__ import annotations

import pytest

from hanlin.tokens.fit import KEPT_PROMPT, fit
from hanlin.types import IGNORE_INDEX, Encoded

BOS, STOP = 1, 2


def row(*turns: tuple[int, int], tail: int = 0, bos: bool = True, trained: tuple[int, ...] | None = None) -> Encoded:
    """Turns of (prompt tokens, answer tokens), a stop after each; prompt ids are 100 and up, answer ids 1000 and up."""
    ids, labels, ends = ([BOS], [IGNORE_INDEX], []) if bos else ([], [], [])
    for number, (prompt, answer) in enumerate(turns):
        ids += range(100 + len(ids), 100 + len(ids) + prompt)
        labels += [IGNORE_INDEX] * prompt
        target = [*range(1000 + len(ids), 1000 + len(ids) + answer), STOP]
        ids += target
        labels += target if trained is None or number in trained else [IGNORE_INDEX] * len(target)
        ends.append(len(ids))
    ids += range(100 + len(ids), 100 + len(ids) + tail)
    labels += [IGNORE_INDEX] * tail
    return Encoded(ids, labels, tuple(ends))


def test_a_row_within_the_limit_stays_as_it_is() -> None:
    encoded = row((5, 3), tail=1)
    for policy in ("cut", "drop", "error"):
        fitted = fit(encoded, 11, policy)  # type: ignore[arg-type]
        assert fitted.encoded is encoded
        assert (fitted.cut_tokens, fitted.reason, fitted.detail) == (0, None, "")


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_without_cutting_there_is_no_row(policy: str) -> None:
    fitted = fit(row((5, 3)), 9, policy)  # type: ignore[arg-type]
    assert fitted.encoded is None
    assert (fitted.reason, fitted.detail) == ("too long", "10 tokens, the limit is 9")


@pytest.mark.parametrize("policy", ["cut", "drop", "error"])
@pytest.mark.parametrize("encoded", [row((5, 3), trained=()), Encoded([7], [7]), Encoded([], [])])
def test_a_row_without_trained_tokens_is_never_used(policy: str, encoded: Encoded) -> None:
    fitted = fit(encoded, 100, policy)  # type: ignore[arg-type]
    assert fitted.encoded is None
    assert fitted.reason == "nothing to train"


def test_the_text_after_the_last_stop_goes_first() -> None:
    encoded = row((5, 3), tail=4)
    fitted = fit(encoded, 11, "cut")
    assert fitted.encoded == Encoded(encoded.ids[:10], encoded.labels[:10], (10,))
    assert (fitted.cut_tokens, fitted.reason) == (4, "too long: end cut")
    assert fitted.detail == "14 tokens, the limit is 11; cut 4 of the end"


def test_then_the_start_of_the_prompt_after_bos() -> None:
    encoded = row((59, 19))
    fitted = fit(encoded, 40, "cut", prefix_ids=(BOS,))
    assert fitted.encoded == Encoded([BOS, *encoded.ids[41:]], [IGNORE_INDEX, *encoded.labels[41:]], (40,))
    assert (fitted.cut_tokens, fitted.reason) == (40, "too long: prompt cut")
    assert fitted.detail == "80 tokens, the limit is 40; cut 40 of the prompt"
    without = fit(encoded, 40, "cut").encoded
    assert without is not None
    assert without.ids == encoded.ids[40:]


def test_a_prefix_of_two_tokens_stays_as_a_whole() -> None:
    encoded = row((59, 19))
    fitted = fit(encoded, 40, "cut", prefix_ids=tuple(encoded.ids[:2])).encoded
    assert fitted is not None and fitted.ids == [*encoded.ids[:2], *encoded.ids[42:]]
    other = fit(encoded, 40, "cut", prefix_ids=(BOS, -1)).encoded
    assert other is not None and other.ids == encoded.ids[40:]


def test_then_whole_turns_from_the_end() -> None:
    encoded = row((29, 9), (9, 9), (9, 9))  # 30 + 10, 9 + 10, 9 + 10: 78 tokens
    fitted = fit(encoded, 50, "cut", prefix_ids=(BOS,))
    assert fitted.encoded is not None
    # 17 of the prompt must stay, 33 are left for answers: the first two turns have 10 + 19 = 29
    assert fitted.encoded.ids == [BOS, *encoded.ids[10:59]]
    assert fitted.encoded.turn_ends == (31, 50)
    assert (fitted.cut_tokens, fitted.reason) == (28, "too long: turns cut")
    assert fitted.detail == "78 tokens, the limit is 50; cut 9 of the prompt, 19 of the turns"


def test_last_of_all_the_end_of_the_answer_before_its_stop() -> None:
    encoded = row((9, 69), (3, 3))
    fitted = fit(encoded, 40, "cut", prefix_ids=(BOS,))
    assert fitted.encoded is not None
    assert fitted.encoded.ids == [*encoded.ids[:39], STOP]
    assert fitted.encoded.labels == [*[IGNORE_INDEX] * 10, *encoded.ids[10:39], STOP]
    assert fitted.encoded.turn_ends == (40,)
    assert (fitted.cut_tokens, fitted.reason) == (47, "too long: answer cut")
    assert fitted.detail == "87 tokens, the limit is 40; cut 40 of the answer, 7 of the turns"


def test_the_marker_before_the_answer_stays() -> None:
    encoded = row((200, 200))
    fitted = fit(encoded, 100, "cut", prefix_ids=(BOS,)).encoded
    assert fitted is not None
    first = next(i for i, label in enumerate(fitted.labels) if label != IGNORE_INDEX)
    assert first == KEPT_PROMPT + 1
    assert fitted.ids[1:first] == encoded.ids[201 - KEPT_PROMPT : 201]


def test_with_little_room_half_is_for_the_answer() -> None:
    encoded = row((30, 30))
    fitted = fit(encoded, 10, "cut", prefix_ids=(BOS,)).encoded
    assert fitted is not None
    assert fitted.ids == [BOS, *encoded.ids[27:35], STOP]
    two = fit(encoded, 2, "cut", prefix_ids=(BOS,)).encoded
    assert two is not None
    assert two.labels == [IGNORE_INDEX, STOP]


def test_answers_that_follow_each_other_directly() -> None:
    encoded = row((30, 30), (0, 30))
    fitted = fit(encoded, 20, "cut", prefix_ids=(BOS,))
    assert fitted.encoded is not None
    assert fitted.encoded.ids == [BOS, *encoded.ids[22:40], STOP]
    assert fitted.encoded.turn_ends == (20,)
    assert fitted.detail.endswith("cut 21 of the prompt, 21 of the answer, 31 of the turns")


def test_history_that_is_not_trained_is_prompt() -> None:
    """With the last answer trained only, the turns before it are cut from the left, not the answer."""
    encoded = row((20, 20), (9, 9), trained=(1,))
    fitted = fit(encoded, 30, "cut", prefix_ids=(BOS,))
    assert fitted.encoded is not None
    assert fitted.encoded.ids == [BOS, *encoded.ids[-29:]]
    assert fitted.reason == "too long: prompt cut"
    assert fitted.encoded.num_trained == 10
    assert fitted.encoded.turn_ends == (11, 30)


def test_a_turn_without_a_stop_takes_that_of_the_row() -> None:
    """Several forms of 2023 write no stop between turns; 30 to 32 answer, 2 and 3 the stop of the last one."""
    ids = [1, 10, 30, 31, 11, 32, 33, 12, 34, 35, 2, 3]
    labels = [-100, -100, 30, 31, -100, 32, 33, -100, 34, 35, 2, 3]
    encoded = Encoded(ids, labels, (4, 7, 12), (0, 0, 2))
    two_turns = fit(encoded, 9, "cut").encoded
    assert two_turns is not None
    assert (two_turns.ids, two_turns.labels[-2:]) == ([1, 10, 30, 31, 11, 32, 33, 2, 3], [2, 3])
    one_turn = fit(encoded, 7, "cut")
    assert one_turn.encoded is not None
    assert one_turn.encoded.ids == [1, 10, 30, 31, 2, 3]
    assert one_turn.reason == "too long: turns cut"
    cut = fit(encoded, 5, "cut")
    assert cut.encoded is not None
    assert cut.encoded.ids == [1, 10, 30, 2, 3]
    assert cut.reason == "too long: answer cut"


def test_an_untrained_stop_is_not_borrowed() -> None:
    ids, labels = [1, 30, 31, 11, 32, 2], [-100, 30, 31, -100, -100, -100]
    cut = fit(Encoded(ids, labels, (3, 6), (0, 1)), 2, "cut").encoded
    assert cut == Encoded([1, 30], [-100, 30])


def test_a_stop_of_two_tokens_stays_whole_where_there_is_room() -> None:
    encoded = Encoded([1, 30, 31, 32, 2, 3], [-100, 30, 31, 32, 2, 3], (6,), (2,))
    kept = [fit(encoded, room, "cut").encoded for room in (5, 4, 3, 2)]
    assert [row.ids for row in kept if row] == [[1, 30, 31, 2, 3], [1, 30, 2, 3], [1, 30, 2], [1, 2]]
