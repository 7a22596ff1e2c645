"""From segments to token ids and labels, in one pass: the only place where it is decided what is trained."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from hanlin.errors import UserError
from hanlin.template import Renderer, SpecialTokens, resolve_renderer
from hanlin.tokens.images import ImageSlots, numbered, split_images
from hanlin.types import IGNORE_INDEX, Conversation, Encoded, Segment

if TYPE_CHECKING:  # it brings transformers, which is seconds; encoding only wants the methods below
    from hanlin.vocab.tokenizer import TextTokenizer

TrainOn = Literal["all", "last"]
"""Which answers of a conversation are trained."""


class Tokenizer(Protocol):
    """What encoding wants of a tokenizer; ``vocab.tokenizer.TextTokenizer`` has it."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of ordinary texts: without BOS and EOS, and never those of a special token."""

    def special_id(self, token: str) -> int:
        """Id of one special token."""


def special_tokens(tokenizer: TextTokenizer) -> SpecialTokens:
    """The special tokens that a renderer needs to know: BOS, EOS, and all that stand beside the learned vocabulary.

    Added tokens that are not called special (``<tool_call>`` of some) are among them: a chat template writes them as
    one token each.
    """
    pieces = tokenizer.pieces()
    names = [pieces[index] for index in sorted(tokenizer.special_ids)]
    names += [added.content for added in tokenizer.hf.added_tokens_decoder.values()]
    return SpecialTokens(tokenizer.bos_token, tokenizer.eos_token, tuple(dict.fromkeys(names)), pieces)


def open_renderer(
    name: str | None,
    tokenizer: TextTokenizer,
    *,
    system: str | None = None,
    place: str = "--template",
    now: datetime.datetime | None = None,
) -> Renderer:
    """The renderer of the template ``name`` (None: the tokenizer's own) for ``tokenizer``, from whose text the tokens
    of the template are kept out from now on. The rest, and what is raised, is as in ``resolve_renderer``."""
    renderer = resolve_renderer(
        name,
        chat_template=tokenizer.chat_template,
        special=special_tokens(tokenizer),
        system=system,
        place=place,
        now=now,
    )
    tokenizer.protect(renderer.tokens)
    return renderer


def join_segments(segments: Iterable[Segment]) -> list[Segment]:
    """The pieces that are tokenised one by one, each ordinary text or one special token.

    Neighbouring ordinary text is joined, as a tokenizer looks at the context. A new piece starts at a special token and
    where an answer starts or ends: so an answer's ids do not depend on the prompt, and the prompt alone, at inference,
    gives the ids that it had in training. With SentencePiece every text piece begins with its dummy prefix.
    """
    pieces: list[Segment] = []
    for segment in segments:
        if not segment.text:
            continue
        last = pieces[-1] if pieces else None
        if last is None or not _is_text(last) or not _is_text(segment) or _kind(last) != _kind(segment):
            pieces.append(segment)
        else:
            pieces[-1] = last._replace(text=last.text + segment.text)
    return pieces


def encode_segments(segments: Iterable[Segment], tokenizer: Tokenizer, images: ImageSlots | None = None) -> Encoded:
    """Ids and labels of rendered segments; a label is the id where the segment is trained.

    ``turn_ends`` are the ends of answers, trained or not, with their stop token. Raises UserError for a special token
    that the tokenizer does not have.
    """
    pieces = join_segments(segments)
    texts = [piece.text for piece in pieces if _is_text(piece)]
    return _assemble(pieces, iter(tokenizer.encode_batch(texts)), tokenizer.special_id, images)


def encode_conversation(
    conversation: Conversation,
    renderer: Renderer,
    tokenizer: Tokenizer,
    *,
    train_on: TrainOn = "all",
    images: ImageSlots | None = None,
) -> Encoded:
    """Ids and labels of a conversation that ends with an answer.

    Answers with their stop token are trained: all, or the ``last`` one, and never those of weight 0. Raises UserError
    when the conversation does not fit the template or a weight is not 0 or 1. ``images`` is what the model sees
    pictures by (``tokens.images``): None leaves ``<img>`` in a text what it is there, text.
    """
    return encode_segments(trained_segments(conversation, renderer, train_on, images), tokenizer, images)


def encode_prompt(
    conversation: Conversation, renderer: Renderer, tokenizer: Tokenizer, images: ImageSlots | None = None
) -> list[int]:
    """Ids of a conversation that waits for an answer, up to where the answer starts.

    They are the first ids of the same conversation with its answer, token by token, as training sees it.
    """
    if images is None:
        return encode_segments(renderer.render(conversation, add_generation_prompt=True), tokenizer).ids
    conversation = numbered(conversation)
    segments = renderer.render(conversation, add_generation_prompt=True)
    return encode_segments(split_images(segments, conversation), tokenizer, images).ids


def encode_conversations(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    tokenizer: Tokenizer,
    *,
    train_on: TrainOn = "all",
    batch_size: int = 512,
) -> Iterator[Encoded]:
    """``encode_conversation`` of each, in order, with one call of the tokenizer for ``batch_size`` conversations."""
    for _, encoded in encode_rows(conversations, renderer, tokenizer, train_on=train_on, batch_size=batch_size):
        if isinstance(encoded, UserError):
            raise encoded
        yield encoded


def encode_rows(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    tokenizer: Tokenizer,
    *,
    train_on: TrainOn = "all",
    images: ImageSlots | None = None,
    batch_size: int = 512,
) -> Iterator[tuple[Conversation, Encoded | UserError]]:
    """As ``encode_conversations``, each with its conversation; one that does not fit the template gives its error."""
    rows = iter(conversations)
    while batch := list(itertools.islice(rows, batch_size)):
        rendered: list[list[Segment] | UserError] = []
        for conversation in batch:
            try:
                rendered.append(join_segments(trained_segments(conversation, renderer, train_on, images)))
            except UserError as error:
                rendered.append(error)
        texts = [p.text for pieces in rendered if isinstance(pieces, list) for p in pieces if _is_text(p)]
        ids = iter(tokenizer.encode_batch(texts))
        for conversation, pieces in zip(batch, rendered, strict=True):
            if isinstance(pieces, UserError):
                yield conversation, pieces
            else:
                yield conversation, _assemble(pieces, ids, tokenizer.special_id, images)


def trained_segments(
    conversation: Conversation, renderer: Renderer, train_on: TrainOn = "all", images: ImageSlots | None = None
) -> list[Segment]:
    """The rendered segments, with ``trained`` taken from the answers that are not to be trained.

    ``message`` stays, so that the pieces, and with them the ids, are the same whatever is trained.
    """
    if images is not None:
        conversation = numbered(conversation)
    wanted = _wanted_answers(conversation, train_on)
    segments = renderer.render(conversation)
    if images is not None:
        segments = split_images(segments, conversation)
    missing = wanted.difference(segment.message for segment in segments if segment.message is not None)
    if missing:
        raise UserError(
            conversation.place,
            f"messages[{min(missing)}] is an answer of which template {renderer.name} writes nothing",
            expected="an answer that can be trained",
        )
    return [
        segment if not segment.trained or segment.message in wanted else segment._replace(trained=False)
        for segment in segments
    ]


def _wanted_answers(conversation: Conversation, train_on: TrainOn) -> set[int]:
    """Indices of the messages that are trained."""
    answers: list[int] = []
    for index, message in enumerate(conversation.messages):
        is_answer = message.role == "assistant"
        if message.weight not in ((None, 0, 1) if is_answer else (None, 0)):
            raise UserError(
                conversation.place,
                f"messages[{index}].weight of {message.role} is {message.weight}",
                expected="0 or 1" if is_answer else "none or 0, as only answers are trained",
            )
        if is_answer:
            answers.append(index)
    considered = answers[-1:] if train_on == "last" else answers
    return {index for index in considered if conversation.messages[index].weight != 0}


def _is_text(piece: Segment) -> bool:
    return not piece.special and not piece.image


def _kind(segment: Segment) -> tuple[bool, int | None]:
    return segment.trained, segment.message


def _assemble(
    pieces: Sequence[Segment],
    text_ids: Iterator[list[int]],
    special_id: Callable[[str], int],
    images: ImageSlots | None = None,
) -> Encoded:
    """Ids, labels and turn ends of the pieces; ``text_ids`` gives the ids of each ordinary piece in order."""
    ids: list[int] = []
    labels: list[int] = []
    turn_ends: list[int] = []
    stop_lengths: list[int] = []
    spans: list[tuple[int, int]] = []
    answer: int | None = None
    stop_start: int | None = None
    for piece in [*pieces, None]:
        if answer is not None and (piece is None or piece.message != answer):
            turn_ends.append(len(ids))
            stop_lengths.append(len(ids) - (len(ids) if stop_start is None else stop_start))
            stop_start = None
        if piece is None:
            break
        answer = piece.message
        if answer is None or not (piece.special or piece.text.isspace()):
            stop_start = None  # a special token before it was of a thought or a tool call
        elif piece.special and stop_start is None:
            stop_start = len(ids)  # the special tokens at the end are the stop
        if piece.image:
            assert images is not None, "pictures were split off for a model that sees them"
            new = images.ids(piece.text)
            spans.append((len(ids), len(ids) + len(new)))
        else:
            new = [special_id(piece.text)] if piece.special else next(text_ids)
        ids += new
        labels += new if piece.trained else [IGNORE_INDEX] * len(new)
    return Encoded(ids, labels, tuple(turn_ends), tuple(stop_lengths), tuple(spans))
