"""Rows of prompt ids to rows of answers, through transformers' own ``generate``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError
from hanlin.infer.stream import TextStream
from hanlin.tokens.images import ImageSlots, stack_pixels


class PromptError(UserError):
    """One prompt of a batch cannot be answered; ``index`` says which."""

    def __init__(self, index: int, error: UserError) -> None:
        super().__init__(error.place, error.problem, expected=error.expected, mend=error.mend)
        self.index = index


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. Counts are in tokens; the stop token counts as a new one and is not in ``text``."""

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    finish_reason: Literal["stop", "length", "cancelled"]


class Row:
    """One answer in the making: takes the ids of its row, knows when it has ended."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        text: TextStream,
        *,
        stop_ids: Collection[int],
        limit: int,
        emit: Callable[[str], None] | None = None,
        images: Sequence[str] = (),
    ) -> None:
        """``images``: paths of the pictures whose places the prompt holds."""
        self.prompt_ids = list(prompt_ids)
        self.images = tuple(images)
        self.limit = limit
        self._text = text
        self._stop_ids = frozenset(stop_ids)
        self._emit = emit
        self._pieces: list[str] = []
        self._num_new = 0
        self._reason: Literal["stop", "length"] | None = None

    @property
    def ended(self) -> bool:
        """True when no further token belongs to the answer."""
        return self._reason is not None

    def push(self, token_id: int) -> None:
        """Take the next id of the row; ignored after the end, where a batch goes on for the sake of other rows."""
        if self.ended:
            return
        self._num_new += 1
        if token_id in self._stop_ids:
            self._reason = "stop"
            return
        self._give(self._text.push(token_id))
        if self._text.stopped:
            self._reason = "stop"
        elif self._num_new >= self.limit:
            self._reason = "length"

    def answer(self) -> Answer:
        """The answer so far; call it once, when nothing follows."""
        self._give(self._text.finish())
        return Answer("".join(self._pieces), len(self.prompt_ids), self._num_new, self._reason or "cancelled")

    def _give(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if self._emit is not None:
                self._emit(piece)


class _Follow(StoppingCriteria):
    """Hands each new token to its row and tells generate which rows have ended.

    One place for stop tokens, stop strings, limits and cancelling, for one row or many. With beams the rows of
    ``input_ids`` are rival hypotheses, so only cancelling is looked at (``rows`` is None).
    """

    def __init__(self, rows: Sequence[Row] | None, cancelled: threading.Event) -> None:
        self._rows = rows
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Ended rows, bool (B,), from ``input_ids`` (B, T) int64."""
        ended = [self._cancelled.is_set()] * input_ids.shape[0]
        if self._rows is not None:
            for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                row.push(token_id)
            ended = [row.ended or cancelled for row, cancelled in zip(self._rows, ended, strict=True)]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class _KnownTokens(LogitsProcessor):
    """Forbids ids past the tokenizer's end: rows that only round the matrix up to a multiple mean no text."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` (B, V) float with the rows from num_tokens on at minus infinity."""
        scores[:, self._num_tokens :] = -torch.inf
        return scores


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) int64 and attention mask (B, T) int64 of prompts that all end at position T - 1.

    A row is filled with its own first id. The mask hides the filling from attention in any case; processors that look
    at the ids, such as the repetition penalty of transformers before it learnt to read the mask (5.23 does), would
    count a foreign pad token, often EOS, as said, and an answer would depend on its neighbours in the batch.
    """
    width = max(len(row) for row in rows)
    ids = [[row[0]] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def generate_rows(
    model: Any,
    rows: Sequence[Row],
    settings: GenerationSettings,
    *,
    stop_ids: Sequence[int],
    num_tokens: int,
    cancelled: threading.Event | None = None,
    slots: ImageSlots | None = None,
) -> list[Answer]:
    """Answer all ``rows`` in one left-padded batch.

    ``num_tokens`` is the tokenizer's length; ``slots`` is there where rows may hold pictures. All rows run with the
    greatest of their limits and end at their own. Raises UserError when the memory of the device does not suffice, when
    what the model computes is not finite, and when a picture cannot be read.
    """
    cancelled = cancelled or threading.Event()
    device = model.device
    input_ids, mask = (tensor.to(device) for tensor in left_padded([row.prompt_ids for row in rows]))
    seen: dict[str, torch.Tensor] = {}
    if slots is not None and (pixels := stack_pixels([row.images for row in rows], slots)) is not None:
        seen["pixel_values"] = torch.from_numpy(pixels).to(device)
    follow = _Follow(rows if settings.num_beams == 1 else None, cancelled)
    try:
        with torch.inference_mode(), _seeded(settings.seed, device):
            # Positions follow from the mask inside generate: a padded row starts at position 0 like one alone.
            output = model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=_generation_config(settings, max(row.limit for row in rows), stop_ids),
                stopping_criteria=[follow],
                logits_processor=[_KnownTokens(num_tokens)],
                **seen,
            )
    except torch.OutOfMemoryError as error:
        raise UserError(
            "memory",
            f"of {device} does not suffice for {len(rows)} answers at a time",
            mend="lower --batch_size or --max_new_tokens, or choose --dtype bfloat16",
        ) from error
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):  # torch's words where logits are NaN
            raise
        raise UserError(
            "--model",
            "computes no numbers (NaN or infinity), so that no token can be drawn",
            mend="its weights are damaged, or the dtype is too narrow: try --dtype float32",
        ) from error
    if settings.num_beams > 1 and not cancelled.is_set():
        for row, ids in zip(rows, output[:, input_ids.shape[1] :].tolist(), strict=True):
            for token_id in ids:
                row.push(token_id)
    return [row.answer() for row in rows]


def _generation_config(settings: GenerationSettings, limit: int, stop_ids: Sequence[int]) -> GenerationConfig:
    sampling: dict[str, Any] = {}
    if not settings.greedy:
        sampling = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
    return GenerationConfig(
        max_new_tokens=limit,
        do_sample=not settings.greedy,
        num_beams=settings.num_beams,
        repetition_penalty=float(settings.repetition_penalty),
        eos_token_id=list(stop_ids) or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,  # fills ended rows only; a row ignores what follows its end
        use_cache=True,
        **sampling,
    )


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Run with torch's generators set to ``seed`` and put them back after; generate takes no generator of its own."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
