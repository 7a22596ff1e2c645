"""SentencePiece BPE models as tokenizers of the tokenizers library, with the ids of SentencePiece.

Every piece is cut in all ways into two pieces, and each cut becomes a merge, ranked by the score of the whole.
Some models cannot be expressed so: those whose pieces share scores (SentencePiece then joins the leftmost pair),
user-defined pieces beside a dummy prefix, other normalisers. For these there is transformers' SentencePieceBackend,
which asks SentencePiece itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import SentencePieceBackend

from hanlin.vocab import spm
from hanlin.vocab.native.probe import probe_texts

MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""User-defined pieces written like this mark turns (``<eoa>``); others are words or spaces of ordinary text."""


def marker_pieces(proto: Any, ids: Collection[int] = ()) -> list[str]:
    """Pieces that text must never become: control pieces and the markers among user-defined ones and among ``ids``."""
    found = []
    for index, piece in enumerate(proto.pieces):
        may_mark = piece.type == spm.USER_DEFINED or index in ids
        is_marker = may_mark and piece.type != spm.BYTE and MARKER.fullmatch(piece.piece) is not None
        if piece.type == spm.CONTROL or is_marker:
            found.append(piece.piece)
    return found


def renamed(model: bytes, names: Mapping[int, str]) -> bytes:
    """The model with ``names`` for some of its pieces: a configuration may put special tokens in reserved places."""
    proto = spm.parse(model)
    changed = {index: name for index, name in names.items() if index < len(proto.pieces)}
    changed = {index: name for index, name in changed.items() if proto.pieces[index].piece != name}
    for index, name in changed.items():
        proto.pieces[index].piece = name
        if proto.pieces[index].type != spm.UNKNOWN:
            proto.pieces[index].type = spm.CONTROL
    return proto.SerializeToString() if changed else model


def fast_backend(model: bytes, special: Collection[str]) -> Tokenizer | None:
    """The tokenizer with the ids of SentencePiece, or None when it cannot be had (see above).

    ``special`` are pieces of the model that become special tokens.
    """
    proto = spm.parse(model)
    backend = _backend(proto, special) if _expressible(proto, special) else None
    return backend if backend is not None and _agrees(backend, proto, model, special) else None


def slow_tokenizer(model: bytes, **tokens: Any) -> SentencePieceBackend:
    """transformers' tokenizer around SentencePiece itself; ``tokens`` are its keyword arguments."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(model)
        return SentencePieceBackend(vocab_file=str(path), legacy=True, **tokens)


def _expressible(proto: Any, special: Collection[str]) -> bool:
    rules = proto.normalizer_spec
    in_text = [p for p in proto.pieces if p.type == spm.USER_DEFINED and p.piece not in special]
    return (
        proto.trainer_spec.model_type == spm.BPE_MODEL
        and not rules.precompiled_charsmap
        and not rules.remove_extra_whitespaces
        and rules.escape_whitespaces
        and not proto.trainer_spec.treat_whitespace_as_suffix
        and not any(piece.type == spm.UNUSED for piece in proto.pieces)
        and not (rules.add_dummy_prefix and in_text)
    )


def _backend(proto: Any, special: Collection[str]) -> Tokenizer:
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    normal = {p.piece: p.score for p in proto.pieces if p.type == spm.NORMAL}
    ranked = []
    for piece, score in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                order = (-score, vocabulary[piece], vocabulary[left], vocabulary[right])
                ranked.append((order, (left, right)))
    ranked.sort()
    unknown = next((p.piece for p in proto.pieces if p.type == spm.UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            [pair for _, pair in ranked],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    # No pre-tokenizer: Metaspace leaves the prefix out before a text that starts with a space, SentencePiece does not.
    spaces: list[Any] = [normalizers.Replace(" ", spm.SPACE)]
    back: list[Any] = [decoders.Replace(spm.SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        spaces.insert(0, normalizers.Prepend(spm.SPACE))
        back.append(decoders.Strip(content=" ", left=1))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(back)
    # SentencePiece never finds a piece with a plain space: it looks when spaces have become marks.
    added = [p.piece for p in proto.pieces if p.piece in special or (p.type == spm.USER_DEFINED and " " not in p.piece)]
    for piece in added:
        is_special = piece in special
        token = AddedToken(piece, special=is_special, normalized=not is_special and spm.SPACE in piece)
        (backend.add_special_tokens if is_special else backend.add_tokens)([token])
    return backend


def _agrees(backend: Tokenizer, proto: Any, model: bytes, special: Collection[str]) -> bool:
    """Whether ids and texts equal those of SentencePiece on the probe."""
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    normal = [p.piece for p in proto.pieces if p.type == spm.NORMAL and p.piece not in special]
    texts = probe_texts([piece.replace(spm.SPACE, " ") for piece in normal])
    expected = reference.encode(texts)
    ours = [list(row.ids) for row in backend.encode_batch(texts, add_special_tokens=False)]
    return ours == expected and all(
        backend.decode(ids, skip_special_tokens=False) == reference.decode(ids) for ids in expected
    )
