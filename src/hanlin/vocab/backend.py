"""The tokenizers library's backend, made so that text cannot become a special token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from tokenizers import Tokenizer


def _byte_alphabet() -> dict[str, int]:
    """Character to byte of GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes follow at 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def bytes_of(piece: str) -> bytes:
    """The bytes that a piece of a byte-level tokenizer stands for."""
    return bytes(BYTE_OF[char] for char in piece)


def is_byte_level(backend: Tokenizer) -> bool:
    """Whether ``backend`` spells text in the byte alphabet before its BPE model sees it."""
    state = json.loads(backend.to_str())
    step = state.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    return state["model"]["type"] == "BPE" and any(part.get("type") == "ByteLevel" for part in steps)


def merge_pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Merges of a BPE model in tokenizer.json; older files hold ``"a b"``, newer ones ``["a", "b"]``."""
    pairs = []
    for merge in model.get("merges", []):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        pairs.append((left, right))
    return pairs


def text_backend(backend: Tokenizer, special: Collection[str]) -> Tokenizer:
    """A copy of ``backend`` for ordinary text: the strings in ``special`` are spelled with other tokens.

    Not matching special tokens (``encode_special_tokens``) is not enough where the model itself can build one, for
    example with a merge ``<pad`` + ``>``. Such merges are dropped from the copy; in a unigram model the piece gets a
    score that never wins.
    """
    state = json.loads(backend.to_str())
    model = state["model"]
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in merge_pairs(model) if pair[0] + pair[1] not in special]
    elif model["type"] == "Unigram":
        model["vocab"] = [[piece, -1e9 if piece in special else score] for piece, score in model["vocab"]]
    for added in state["added_tokens"]:  # only those called special can be kept out of text
        added["special"] = added["special"] or added["content"] in special
    copy = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy


def vocabulary_hash(backend: Tokenizer, pieces: Sequence[str]) -> str:
    """SHA-256 over the tokens by id, the merges or scores, and how text is normalised and cut beforehand."""
    state = json.loads(backend.to_str())
    model = state["model"]
    digest = hashlib.sha256(f"{model['type']}\0".encode())
    for piece in pieces:
        digest.update(f"{piece}\n".encode())
    if model["type"] == "BPE":
        for left, right in merge_pairs(model):
            digest.update(f"{left} {right}\n".encode())
    elif model["type"] == "Unigram":
        for piece, score in model["vocab"]:
            digest.update(f"{piece} {score!r}\n".encode())
    rules = [state.get("normalizer"), state.get("pre_tokenizer")]
    digest.update(json.dumps(rules, sort_keys=True).encode())
    return digest.hexdigest()
