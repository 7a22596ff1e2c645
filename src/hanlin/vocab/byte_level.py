"""More tokens for a byte-level BPE tokenizer (``tokenizer.json``), from another one or learned from a corpus.

New tokens get ids behind all old ones, added tokens included, and their merges come after the old merges: whatever the
old tokenizer joined is still joined first.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from hanlin.errors import UserError
from hanlin.vocab import backend as hf_backend
from hanlin.vocab.bpe import Word, learn_merges
from hanlin.vocab.extend import MAX_PIECE_CHARACTERS, Extension
from hanlin.vocab.tokenizer import TextTokenizer


def extend_by_tokenizer(old: TextTokenizer, other: TextTokenizer, *, pad_token: str | None = None) -> Extension:
    """Append the tokens of ``other`` that ``old`` lacks, in the order of its merges, each with its merge.

    Special and added tokens of ``other`` are left out: they mean nothing in another model.
    """
    present = set(_byte_vocabulary(old, "--tokenizer"))
    _byte_vocabulary(other, "--pieces_from")
    merges: list[tuple[str, str]] = []
    duplicates: list[str] = []
    left_out: list[str] = []
    for left, right in hf_backend.merge_pairs(_model(other)):
        piece = left + right
        if piece in present:
            duplicates.append(piece)
        elif left not in present or right not in present:
            left_out.append(piece)
        else:
            merges.append((left, right))
            present.add(piece)
    return _finish(old, merges, pad_token, duplicates=tuple(duplicates), left_out=tuple(left_out))


def extend_bytes_by_corpus(
    old: TextTokenizer,
    texts: Iterable[str],
    num_pieces: int,
    *,
    max_piece_length: int = MAX_PIECE_CHARACTERS,
    pad_token: str | None = None,
) -> Extension:
    """Append ``num_pieces`` tokens learned from ``texts`` on top of the old merges, inside the old rule of words.

    ``max_piece_length`` is in characters; the first byte of a character counts for the whole.
    """
    present = _byte_vocabulary(old, "--tokenizer")
    words = _words(old, texts)
    if not words:
        raise UserError("--corpus", "holds no text", expected="some lines of text to learn from")
    learned = learn_merges(words, num_pieces, taken=present, length=_num_characters, max_length=max_piece_length)
    merges = [(merge.left, merge.right) for merge in learned]
    return _finish(old, merges, pad_token, missing=num_pieces - len(merges))


def extend_bytes_by_pad(old: TextTokenizer, pad_token: str) -> Extension:
    """Only a pad token: a new one at the end, or the declaration of one that the vocabulary has."""
    return _finish(old, [], pad_token)


def _byte_vocabulary(tokenizer: TextTokenizer, place: str) -> set[str]:
    if not tokenizer.is_byte_level:
        raise UserError(
            place,
            "is not a byte-level BPE tokenizer",
            expected="a folder with the tokenizer.json of one (as GPT-2, Llama 3, Qwen)",
            mend="a SentencePiece tokenizer is extended by a SentencePiece model, a byte-level one by a byte-level one",
        )
    return set(tokenizer.pieces())


def _state(tokenizer: TextTokenizer) -> dict[str, object]:
    state: dict[str, object] = json.loads(tokenizer.hf.backend_tokenizer.to_str())
    return state


def _model(tokenizer: TextTokenizer) -> dict[str, object]:
    model = _state(tokenizer)["model"]
    assert isinstance(model, dict)
    return model


def _num_characters(piece: str) -> int:
    """Characters that begin in ``piece``, at least 1: bytes 0x80 to 0xBF continue a character in UTF-8."""
    return max(1, sum(not 0x80 <= byte < 0xC0 for byte in hf_backend.bytes_of(piece)))


def _words(old: TextTokenizer, texts: Iterable[str]) -> Counter[Word]:
    """Words of ``texts`` as the old tokenizer splits them, each as its old tokens, with the number of occurrences."""
    backend = hf_backend.text_backend(old.hf.backend_tokenizer, [old.pieces()[index] for index in old.special_ids])
    spelled: Counter[str] = Counter()
    for text in texts:
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        spelled.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
    words: Counter[Word] = Counter()
    for word, count in spelled.items():
        tokens = tuple(token.value for token in backend.model.tokenize(word))
        if len(tokens) > 1:
            words[tokens] += count
        elif tokens:
            words[tokens] += 0  # known as one token already, but text all the same
    return words


def _finish(old: TextTokenizer, merges: Sequence[tuple[str, str]], pad_token: str | None, **facts: object) -> Extension:
    tokenizer = _with_merges(old, merges)
    added = [left + right for left, right in merges]
    if pad_token is not None:
        if pad_token not in tokenizer.pieces():
            added.append(pad_token)
        tokenizer.hf.add_special_tokens({"pad_token": pad_token})
        tokenizer = TextTokenizer(tokenizer.hf)
    return Extension(tokenizer, tuple(added), **facts)  # type: ignore[arg-type]


def _with_merges(old: TextTokenizer, merges: Sequence[tuple[str, str]]) -> TextTokenizer:
    state = _state(old)
    model = state["model"]
    assert isinstance(model, dict)
    # Added tokens lie behind the model's own, and the library numbers those that the model does not hold anew from its
    # size on. Once they are in the model's vocabulary (no merge leads to them) their ids are fixed.
    vocabulary = {piece: index for index, piece in enumerate(old.pieces()) if piece} | model["vocab"]
    for index, (left, right) in enumerate(merges, start=len(old)):
        vocabulary[left + right] = index
    model["vocab"] = vocabulary
    model["merges"] = [list(pair) for pair in (*hf_backend.merge_pairs(model), *merges)]
    with tempfile.TemporaryDirectory() as folder:
        # Through files, so that class, configuration and chat template stay those of the old tokenizer.
        old.hf.save_pretrained(folder)
        backend = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
        backend.save(str(Path(folder) / "tokenizer.json"))
        hf = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    hf.name_or_path = ""
    tokenizer = TextTokenizer(hf)
    assert tokenizer.extends(old), "old tokens keep their ids"
    assert hf_backend.merge_pairs(_model(tokenizer)) == [tuple(pair) for pair in model["merges"]]
    return tokenizer
