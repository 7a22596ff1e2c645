"""SentencePiece model files: reading, the processor that encodes, and the published files known by their checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto_module

from hanlin.errors import UserError

SPACE = "\u2581"
"""The mark that SentencePiece writes for a space (LOWER ONE EIGHTH BLOCK)."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Piece types of ``ModelProto.SentencePiece.Type``."""

BPE_MODEL = 2
"""``TrainerSpec.ModelType`` of a BPE model (1 is unigram)."""

PUBLISHED = {
    "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347": "llama",
    "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0": "chinese-llama",
    "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8": "chinese-alpaca",
    "a3b8844863b200dfcca971db228e96ce388290dfcf72c15d7a9d2f604bac787c": "chinese-llama-2",
}
"""SHA-256 of ``tokenizer.model`` files that were published with models of 2023."""

PUBLISHED_PAD = {"chinese-alpaca": "[PAD]", "chinese-llama-2": "<pad>"}
"""Their padding pieces. The files themselves do not say so: the piece is an ordinary one."""


def sha256(data: bytes) -> str:
    """SHA-256 of ``data`` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_model(path: Path, *, place: str) -> bytes:
    """Bytes of a SentencePiece model file; UserError at ``place`` when it is missing or something else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            place, f"cannot read {path}: {error.strerror}", expected="a SentencePiece model file"
        ) from error
    if not is_model(data):
        raise UserError(
            place,
            f"{path} is not a SentencePiece model",
            expected="a file that sentencepiece wrote, often called tokenizer.model",
            mend="check that the download is complete (a Git LFS pointer is a short text file)",
        )
    return data


def is_model(data: bytes) -> bool:
    """Whether ``data`` is a SentencePiece model with pieces (other libraries also call files tokenizer.model)."""
    proto = proto_module.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # protobuf's DecodeError has a different class in each of its implementations
        return False
    return len(proto.pieces) > 0 and proto.HasField("trainer_spec")


def parse(data: bytes) -> Any:
    """The ``ModelProto`` of a model file's bytes; each call gives a copy of its own."""
    proto = proto_module.ModelProto()
    proto.ParseFromString(data)
    return proto


def processor(
    data: bytes, *, special_ids: Collection[int] = (), dummy_prefix: bool | None = None
) -> sentencepiece.SentencePieceProcessor:
    """A processor that never makes one of ``special_ids`` out of text.

    A special token may be an ordinary or a user-defined piece of the model (``<pad>`` of Chinese-LLaMA-2 is NORMAL);
    in the processor's own copy such a piece becomes CONTROL, which the encoder cannot produce. Everything else stays.
    ``dummy_prefix`` overrides whether a space is put before the text; None keeps the model's own rule.
    """
    proto = parse(data)
    for index in special_ids:
        if index < len(proto.pieces) and proto.pieces[index].type != UNKNOWN:
            proto.pieces[index].type = CONTROL
    if dummy_prefix is not None:
        proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def vocabulary_hash(data: bytes, extra: Collection[str] = ()) -> str:
    """SHA-256 over pieces, scores, types and the rules of normalising; ``extra`` are tokens added after the model's."""
    proto = parse(data)
    digest = hashlib.sha256(b"sentencepiece\0")
    for piece in proto.pieces:
        digest.update(f"{piece.piece}\0{piece.score!r}\0{piece.type}\n".encode())
    digest.update(proto.normalizer_spec.SerializeToString(deterministic=True))
    for token in extra:
        digest.update(f"added\0{token}\n".encode())
    return digest.hexdigest()
