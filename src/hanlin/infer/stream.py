"""From token ids to text that can be shown while the answer is still being made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")

REPLACEMENT = "\ufffd"
"""What decoders put for bytes that are no character (yet)."""

_MOST_HELD_TOKENS = 8
"""A UTF-8 character has at most 4 bytes, thus 4 tokens; text that is unreadable for twice as long stays so."""

_POLL_SECONDS = 0.2
"""Longest uninterruptible wait: on Windows a wait without a limit would not notice Ctrl-C."""


class TextStream:
    """Token ids of one answer go in one by one; pieces of text come out that never need to be taken back.

    ``decode`` maps ids to text without special tokens. Held back are bytes that are not yet a character and endings
    that may become one of the ``stop`` strings; a stop string and what follows is never given out. ``context`` are ids
    before the answer whose text it continues (they decide about a space in between); leave it empty when the answer
    starts a text of its own.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = (), context: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._stop = tuple(text for text in stop if text)
        # Only a window of ids is decoded at each step, so that the cost does not grow with the square of the length:
        # _window starts with the _num_shown ids given out last, because decoders treat the first id of a text apart
        # (SentencePiece takes its leading space away). Example: shown "Hello", window [▁Hello] + new [▁world]:
        # decode(window) = "Hello world", minus decode(shown) = "Hello" leaves " world".
        self._window = list(context)
        self._num_shown = len(context)
        self._pending = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that can be shown now that ``token_id`` was appended; may be empty."""
        if self.stopped:
            return ""
        self._window.append(token_id)
        text = self._fresh_text()
        held = len(self._window) - self._num_shown
        if text.endswith(REPLACEMENT) and held <= _MOST_HELD_TOKENS:
            return ""
        if text:
            self._window = self._window[self._num_shown :]
            self._num_shown = len(self._window)
        return self._before_stop(text)

    def finish(self) -> str:
        """The rest, when no further token follows. Bytes that never became a character are left out."""
        if self.stopped:
            return ""
        text = self._before_stop(self._fresh_text().rstrip(REPLACEMENT))
        rest = "" if self.stopped else self._pending
        self._pending = ""
        self.stopped = True
        return text + rest

    def _fresh_text(self) -> str:
        return self._decode(self._window)[len(self._decode(self._window[: self._num_shown])) :]

    def _before_stop(self, text: str) -> str:
        """Append ``text`` to what is pending and release what cannot belong to a stop string."""
        text = self._pending + text
        found = [index for index in (text.find(stop) for stop in self._stop) if index >= 0]
        if found:
            self.stopped = True
            self._pending = ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class AnswerStream(Iterator[str], Generic[A]):
    """Pieces of an answer, made in a thread of their own while the caller shows them.

    ``run(emit, cancelled)`` makes the answer: it calls ``emit`` with each piece and stops soon after ``cancelled`` is
    set. It starts with the first piece asked for. An exception of ``run`` is raised where the pieces are read.
    """

    def __init__(self, run: Callable[[Callable[[str], None], threading.Event], A]) -> None:
        self._run = run
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._answer: A | None = None
        self._error: BaseException | None = None
        self._ended = False

    @property
    def answer(self) -> A:
        """The whole answer; known once the pieces have ended or ``close`` was called."""
        if self._answer is None:
            raise RuntimeError("the answer is known only after its pieces were read")
        return self._answer

    def close(self) -> None:
        """Stop making the answer and wait until it has stopped; what was made is in ``answer``."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()
        self._ended = True

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="hanlin-answer")
            self._thread.start()
        while True:
            try:
                piece = self._pieces.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                continue
        if piece is not None:
            return piece
        self.close()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def _work(self) -> None:
        try:
            self._answer = self._run(self._pieces.put, self._cancelled)
        except BaseException as error:  # raised again in the reader's thread
            self._error = error
        finally:
            self._pieces.put(None)
