"""More pieces for a SentencePiece BPE tokenizer, from another model or from a corpus. Old ids keep their meaning."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sentencepiece

from hanlin.errors import UserError
from hanlin.vocab import spm
from hanlin.vocab.bpe import Word, learn_merges
from hanlin.vocab.script import may_join
from hanlin.vocab.tokenizer import TextTokenizer

MAX_PIECE_CHARACTERS = 16
"""Longest learned piece; the limit of LLaMA's own training (``max_sentencepiece_length``)."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extended tokenizer and how it came about."""

    tokenizer: TextTokenizer
    added: tuple[str, ...]
    """New pieces in id order, the pad token included."""
    duplicates: tuple[str, ...] = ()
    """Pieces of the source that the old tokenizer already had."""
    left_out: tuple[str, ...] = ()
    """Control, byte and unused pieces of the source, which mean nothing in another model."""
    missing: int = 0
    """Pieces asked for that the corpus could not supply."""


def extend_by_model(old: TextTokenizer, other: bytes, *, pad_token: str | None = None) -> Extension:
    """Append every piece of the SentencePiece model ``other`` that ``old`` lacks, in file order, with score 0.

    This is how the Chinese-LLaMA tokenizers were made, and the result equals the published files byte for byte. BPE
    merges the highest score first and LLaMA's own merges have -1, -2, ..., so every new piece wins over every
    old one, and among the new ones the leftmost: a Latin piece of ``other`` changes how English is cut.
    ``other`` may be a unigram model; only its strings are used.
    """
    proto = _proto_with_added_tokens(old)
    present = {piece.piece for piece in proto.pieces}
    added: list[str] = []
    duplicates: list[str] = []
    left_out: list[str] = []
    for piece in spm.parse(other).pieces:
        if piece.piece in present:
            duplicates.append(piece.piece)
        elif piece.type not in (spm.NORMAL, spm.USER_DEFINED):
            left_out.append(piece.piece)
        else:
            _append(proto, piece.piece, 0.0)
            present.add(piece.piece)
            added.append(piece.piece)
    return _finish(old, proto, added, pad_token, duplicates=tuple(duplicates), left_out=tuple(left_out))


def extend_by_corpus(
    old: TextTokenizer,
    texts: Iterable[str],
    num_pieces: int,
    *,
    character_coverage: float = 0.9995,
    max_piece_length: int = MAX_PIECE_CHARACTERS,
    pad_token: str | None = None,
) -> Extension:
    """Append ``num_pieces`` pieces learned from ``texts``: first characters that ``old`` spells with bytes, then joins.

    ``character_coverage`` is the share of all characters of the corpus that shall have a piece, as in SentencePiece;
    the rarest stay bytes. ``max_piece_length`` is in characters.

    The scores are distinct and below all old ones, in the order of learning. So the old merges come first and text in
    an old language is cut as before wherever no new piece occurs in it; and, unlike with equal scores, libraries that
    turn the model into a list of merges (transformers' fast tokenizer) give the ids that SentencePiece gives.
    """
    proto = _proto_with_added_tokens(old)
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("--corpus", "holds no text", expected="some lines of text to learn from")
    present = {piece.piece for piece in proto.pieces}
    score = _lowest_score(proto) - 1.0
    characters = [char for char in _frequent_characters(lines, character_coverage) if char not in present]
    characters = characters[:num_pieces]
    for char in characters:
        _append(proto, char, score)
        score -= 1.0
    words = _words(proto, lines)
    merges = learn_merges(
        words, num_pieces - len(characters), taken=present | set(characters), max_length=max_piece_length
    )
    for merge in merges:
        _append(proto, merge.piece, score)
        score -= 1.0
    added = characters + [merge.piece for merge in merges]
    return _finish(old, proto, added, pad_token, missing=num_pieces - len(added))


def extend_by_pad(old: TextTokenizer, pad_token: str) -> Extension:
    """Only a pad token: a new piece at the end, or the declaration of one that the vocabulary has."""
    return _finish(old, _proto_with_added_tokens(old), [], pad_token)


def _proto_with_added_tokens(old: TextTokenizer) -> Any:
    """The model of ``old``, with tokens that lie behind it (``added_tokens.json``) as pieces, so that ids stay."""
    if old.sentencepiece_model is None:
        raise UserError(
            "--tokenizer",
            "is not a SentencePiece tokenizer",
            expected="a folder with a tokenizer.model of SentencePiece",
        )
    proto = spm.parse(old.sentencepiece_model)
    if proto.trainer_spec.model_type != spm.BPE_MODEL:
        raise UserError(
            "--tokenizer",
            "is a unigram model, whose new pieces would need probabilities",
            expected="a SentencePiece model of the BPE kind, as LLaMA's",
        )
    for index in range(len(proto.pieces), len(old)):
        piece = old.pieces()[index]
        kind = spm.CONTROL if index in old.special_ids else spm.USER_DEFINED
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    return proto


def _append(proto: Any, piece: str, score: float) -> None:
    # The type stays unset, which means NORMAL: the published files were written so, and bytes are compared.
    proto.pieces.add(piece=piece, score=score)


def _finish(old: TextTokenizer, proto: Any, added: list[str], pad_token: str | None, **facts: Any) -> Extension:
    if pad_token is not None and pad_token not in {piece.piece for piece in proto.pieces}:
        _append(proto, pad_token, 0.0)
        added = [*added, pad_token]
    tokenizer = TextTokenizer.from_sentencepiece(
        proto.SerializeToString(),
        bos_token=old.bos_token,
        eos_token=old.eos_token,
        pad_token=pad_token or old.pad_token,
        special_tokens=[old.pieces()[index] for index in sorted(old.special_ids)],
        like=old.hf,
    ).with_prefix_of(old)
    return Extension(tokenizer, tuple(added), **facts)


def _lowest_score(proto: Any) -> float:
    """Lowest score of a merge. LLaMA's runs of spaces have -1e9, below which float32 holds no distinct scores."""
    scores = [piece.score for piece in proto.pieces if piece.type == spm.NORMAL and piece.score > -1e6]
    return float(min(scores, default=0.0))


def _frequent_characters(lines: Sequence[str], coverage: float) -> list[str]:
    """Characters of ``lines``, the most frequent first, until they make up the share ``coverage`` of all."""
    counts = Counter(char for line in lines for char in line)
    # No spaces and control characters: a line break or a zero-width joiner is well served by its bytes.
    visible = {char: count for char, count in counts.items() if unicodedata.category(char)[0] not in "CZ"}
    visible.pop(spm.SPACE, None)
    wanted = coverage * sum(visible.values())
    characters: list[str] = []
    covered = 0
    for char, count in sorted(visible.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted:
            break
        characters.append(char)
        covered += count
    return characters


def _words(proto: Any, lines: Sequence[str]) -> Counter[Word]:
    """``lines`` as the model ``proto`` cuts them, broken where no piece may cross, with the number of occurrences."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    closed = {piece.piece for piece in proto.pieces if piece.type != spm.NORMAL}
    words: Counter[Word] = Counter()
    for start in range(0, len(lines), 10_000):  # in batches, so that the cut text is not held all at once
        for pieces in processor.encode(list(lines[start : start + 10_000]), out_type=str):
            words.update(_break(pieces, closed))
    return words


def _break(pieces: Sequence[str], closed: set[str]) -> Iterator[Word]:
    """Stretches of ``pieces`` within which neighbours may be joined; single pieces are left out."""
    begin = 0
    for index, (left, right) in enumerate(pairwise(pieces), start=1):
        if left in closed or right in closed or not may_join(left[-1], right[0]):
            if index - begin > 1:
                yield tuple(pieces[begin:index])
            begin = index
    if len(pieces) - begin > 1:
        yield tuple(pieces[begin:])
