"""What happens to a row that is longer than the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hanlin.types import IGNORE_INDEX, Encoded

Overlong = Literal["cut", "drop", "error"]

KEPT_PROMPT = 16
"""Prompt tokens that stay before the first answer, whatever must be cut: room for the template's answer marker.
``\\n\\n### Response: `` is 7 tokens in Llama's vocabulary, 15 in one that knows bytes only; the others are shorter."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row within the limit, or the reason why there is none."""

    encoded: Encoded | None
    cut_tokens: int = 0
    """Tokens removed from a row that is still used."""
    reason: str | None = None
    """Why the row was cut or is not used, one of a few; None when it is as it was."""
    detail: str = ""
    """Numbers of this row, for the ledger."""


def fit(encoded: Encoded, max_length: int, policy: Overlong = "cut", *, prefix_ids: Sequence[int] = ()) -> Fitted:
    """The row within ``max_length`` tokens (2 or more).

    ``drop`` and ``error`` give no row when it is longer; with ``error`` the caller stops. ``cut`` removes, in this
    order and no more than needed:

    1. what follows the last trained token;
    2. the start of the prompt, the tokens before the first trained answer, down to ``KEPT_PROMPT`` tokens (half of
       ``max_length`` when that is less), so that the marker before the answer stays; ``prefix_ids``, where the row
       starts with them, stay too;
    3. turns after the first trained answer, from the end of the row, whole;
    4. the end of the first trained answer, before its stop token.

    Where the template writes no stop between turns, a turn that becomes the last one takes the stop of the row's end.
    So a cut row ends with a stop token that is trained. A row without a trained token is never used: its loss is NaN.
    Nor is a row of which a picture would be cut or left out, unless it goes with all of its turn.

    With max_length 40: BOS + 59 of prompt + 19 of answer + stop = 80 -> BOS + 19 of prompt + answer + stop;
    BOS + 9 of prompt + 69 of answer + stop = 80 -> BOS + 9 of prompt + 29 of answer + stop.
    """
    assert max_length >= 2, "the configuration checks the limit"
    ids, labels = encoded.ids, encoded.labels
    trained = [i for i, label in enumerate(labels) if label != IGNORE_INDEX]
    # A first token has nothing before it that could predict it, so training it alone trains nothing.
    if not trained or trained[-1] == 0:
        return Fitted(None, reason="nothing to train", detail=f"none of its {len(ids)} tokens is trained")
    if len(ids) <= max_length:
        return Fitted(encoded)
    too_long = f"{len(ids)} tokens, the limit is {max_length}"
    if policy != "cut":
        return Fitted(None, reason="too long", detail=too_long)

    first, end = trained[0], trained[-1] + 1
    head = len(prefix_ids) if ids[: len(prefix_ids)] == list(prefix_ids) else 0
    head = min(head, first)
    least_prompt = min(first, head + KEPT_PROMPT, max(max_length // 2, 1))
    room = max_length - least_prompt
    answer, stop, cut_answer = _within(encoded, first, end, room)
    prompt = min(first, max_length - len(answer) - len(stop))
    head = min(head, prompt)
    # Worked example: first 60, prompt 20, head 1 -> positions 0 and 41..59.
    kept = [*range(head), *range(first - prompt + head, first), *answer, *stop]
    keeps = set(kept)
    for start, stop_place in encoded.images:
        if start < answer.stop and not keeps.issuperset(range(start, stop_place)):
            return Fitted(None, reason="too long: a picture would be cut", detail=too_long)
    new_place = {old + 1: new + 1 for new, old in enumerate(kept)}
    fitted = Encoded(
        [ids[i] for i in kept],
        [labels[i] for i in kept],
        tuple(new_place[t] for t in encoded.turn_ends if t in new_place),
        images=tuple((new_place[b] - (b - a), new_place[b]) for a, b in encoded.images if b in new_place),
    )
    cut = {
        "prompt": first - prompt,
        "answer": cut_answer,
        "turns": end - first - len(answer) - len(stop) - cut_answer,
        "end": len(ids) - end,
    }
    lost = fitted.num_trained < len(trained)
    part = next(name for name in (("answer", "turns") if lost else ("prompt", "end")) if cut[name])
    numbers = ", ".join(f"{number} of the {name}" for name, number in cut.items() if number)
    return Fitted(fitted, len(ids) - len(kept), f"too long: {part} cut", f"{too_long}; cut {numbers}")


def _within(encoded: Encoded, first: int, end: int, room: int) -> tuple[range, range, int]:
    """What stays of positions ``first`` to ``end`` (exclusive) in ``room`` tokens: the answers, the stop where it is
    torn from its answer (else an empty range at the end of the answers), and how much of an answer is cut."""
    if end - first <= room:
        return range(first, end), range(end, end), 0
    labels = encoded.labels
    turn_ends = encoded.turn_ends or (end,)
    lengths = dict(zip(turn_ends, encoded.stop_lengths or [1] * len(turn_ends), strict=True))
    final = range(turn_ends[-1] - lengths[turn_ends[-1]], turn_ends[-1])
    borrowed = final if final and labels[final.start] != IGNORE_INDEX else range(0)

    def missing_stop(turn_end: int) -> range:
        """The stop of the row's end, for a turn that has none itself."""
        return range(0) if lengths[turn_end] else borrowed

    ends = [t for t in turn_ends if first < t <= end and labels[t - 1] != IGNORE_INDEX]
    fitting = [t for t in ends if t - first + len(missing_stop(t)) <= room]
    if fitting:
        return range(first, fitting[-1]), missing_stop(fitting[-1]), 0
    # The first trained answer; of a stop of several tokens the first ones stay where the room is small.
    answer_end = ends[0]
    own = range(answer_end - lengths[answer_end], answer_end)
    stop = own or borrowed
    stop = stop[: max(room - 1, 1)]
    kept = range(first, min(first + room - len(stop), own.start))
    return kept, stop, own.start - kept.stop
