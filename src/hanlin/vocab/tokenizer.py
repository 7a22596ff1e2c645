"""One tokenizer for the whole toolkit: text to ids and back, whatever library wrote its files.

Why not simply transformers: with the tokenizer of Chinese-LLaMA-2 (55,296 pieces, of which 23,296 share the score 0)
transformers 5.23 converts the SentencePiece model to merges, and a list of merges cannot express a tie. SentencePiece
takes the leftmost of equal candidates. 750 of the 2,139 texts of a Chinese instruction file (1,000 records) came out
with other ids than SentencePiece gives, while models were trained on the latter's. So where a ``tokenizer.model`` lies
in the folder, SentencePiece itself encodes; it is also three times as fast (0.04 s against 0.12 s for these texts).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from hanlin.errors import UserError, did_you_mean
from hanlin.vocab import backend as hf_backend
from hanlin.vocab import spm

MODEL_FILE = "tokenizer.model"
RECORD_FILE = "hanlin_tokenizer.json"
"""Beside the tokenizer's files: what only hanlin needs to know (``pad_to_multiple_of``, ``prefix``)."""
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_NO_BYTES_OF_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that no UTF-8 text has (RFC 3629), so that they need no protection."""


class TextTokenizer:
    """Ids of ordinary text and back. Special tokens are reached by name only: no text turns into one."""

    def __init__(
        self,
        hf: PreTrainedTokenizerBase,
        *,
        model: bytes | None = None,
        source: Path | None = None,
        prefix: Sequence[str] | None = None,
    ) -> None:
        """``hf``: transformers' tokenizer of the same vocabulary; ``model``: the bytes of its SentencePiece file.

        ``prefix``: tokens before every text; None takes those that ``hf`` puts there.
        """
        self.hf = hf
        self.source = source
        self.known = spm.PUBLISHED.get(spm.sha256(model)) if model is not None else None
        self._pieces = _pieces_by_id(hf)
        if model is not None and not _same_pieces(model, self._pieces):
            # Some families shift the ids of the model (XLM-R) or call another format tokenizer.model.
            model = None
        self.sentencepiece_model = model
        """Bytes of ``tokenizer.model`` as it was read, or None for tokenizers of another kind."""
        self._bytes: list[bytes] | None = None
        self.pad_to_multiple_of: int | None = None
        """The model's embedding rows shall be a multiple of this; the tokenizer itself has no filling pieces."""
        self._repair_special_tokens()
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._special_ids = _special_ids(hf)
        self._processor: sentencepiece.SentencePieceProcessor | None = None
        self._piece_processor: sentencepiece.SentencePieceProcessor | None = None
        self._backend: Tokenizer | None = None
        self._make_encoder()
        self.identity = (
            spm.vocabulary_hash(model, self._pieces[len(spm.parse(model).pieces) :])
            if model is not None
            else hf_backend.vocabulary_hash(_backend_of(hf), self._pieces)
        )
        self.prefix_ids = self.own_prefix() if prefix is None else tuple(self._ids[token] for token in prefix)
        """Ids before every text and conversation: BOS for most, [gMASK] and sop for ChatGLM, none for Qwen."""
        self.tiktoken_file: bytes | None = None
        """Bytes of ``qwen.tiktoken``, where the vocabulary was built from one."""
        self.is_converted = False
        """Whether the files of ``source`` are of no use to others as they are, so that ``save`` must write new ones."""

    def _make_encoder(self) -> None:
        """What turns text into ids, made so that none of the special ids can come out of it."""
        model = self.sentencepiece_model
        if model is not None and self._only_special_tokens_added(model):
            # As configured: the attribute of the same name is false where nothing was said.
            space = self.hf.init_kwargs.get("add_prefix_space")
            self._processor = spm.processor(
                model, special_ids=self._special_ids, dummy_prefix=False if space is False else None
            )
        else:
            special = {self._pieces[index] for index in self._special_ids}
            self._backend = hf_backend.text_backend(_backend_of(self.hf), special)

    def protect(self, tokens: Iterable[str]) -> None:
        """Make each of ``tokens`` special, so that no text becomes one: for the marks of a template that the
        tokenizer itself calls ordinary pieces. Raises UserError for what is not one token of the vocabulary, and for
        a byte that text is spelled with."""
        ids = set()
        for token in tokens:
            byte = BYTE_PIECE.fullmatch(token)
            if byte is None:
                ids.add(self.special_id(token))
            elif int(byte[1], 16) not in _NO_BYTES_OF_UTF8:
                raise UserError(
                    self.source or "tokenizer", f"{token} is a byte of text", expected="a token that text never needs"
                )
        if not ids <= self._special_ids:
            self._special_ids |= ids
            self._processor = self._piece_processor = self._backend = None
            self._make_encoder()

    @classmethod
    def load(cls, path: str, *, place: str = "--tokenizer") -> TextTokenizer:
        """Read a tokenizer from a folder or a SentencePiece file (``.../tokenizer.model``); see ``loading``."""
        from hanlin.vocab.loading import load_tokenizer  # it makes tokenizers, so it comes after this class

        return load_tokenizer(path, place)

    @classmethod
    def from_sentencepiece(cls, model: bytes, **settings: Any) -> TextTokenizer:
        """A tokenizer from the bytes of a SentencePiece model alone; see ``loading.from_sentencepiece``."""
        from hanlin.vocab.loading import from_sentencepiece

        return from_sentencepiece(model, **settings)

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into ``directory``; see ``saving``."""
        from hanlin.vocab.saving import save_tokenizer

        save_tokenizer(self, directory)

    def with_prefix_of(self, other: TextTokenizer) -> TextTokenizer:
        """Begin texts as ``other`` does, whose tokens this one has with the same ids."""
        self.prefix_ids = other.prefix_ids
        return self

    def own_prefix(self) -> tuple[int, ...]:
        """Ids that transformers' tokenizer puts before a text, else BOS if there is one."""
        bare, whole = (self.hf("a", add_special_tokens=special).input_ids for special in (False, True))
        start = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        if start:
            return tuple(whole[:start])
        return () if self.bos_id is None else (self.bos_id,)

    def _repair_special_tokens(self) -> None:
        """Fill in what a configuration leaves out although the vocabulary has it.

        The published Chinese models hold their padding token as an ordinary piece that only
        ``special_tokens_map.json`` names; other configurations name no BOS or EOS at all.
        """
        if self.sentencepiece_model is None:
            return
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.sentencepiece_model)
        for name, own in (("bos_token", processor.bos_id()), ("eos_token", processor.eos_id())):
            if not getattr(self.hf, name) and own >= 0:
                setattr(self.hf, name, processor.id_to_piece(own))
        pad = spm.PUBLISHED_PAD.get(self.known or "")
        if pad is not None and self.hf.pad_token is None:
            self.hf.pad_token = pad

    def _only_special_tokens_added(self, model: bytes) -> bool:
        """Whether every token after the model's own is special; SentencePiece cannot match the others in text."""
        size = len(spm.parse(model).pieces)
        return all(index in self._special_ids for index in range(size, len(self._pieces)))

    @property
    def bos_token(self) -> str | None:
        """Token that starts a text, or None."""
        return self.hf.bos_token or None

    @property
    def eos_token(self) -> str | None:
        """Token that ends a text, or None."""
        return self.hf.eos_token or None

    @property
    def pad_token(self) -> str | None:
        """Token that fills rows up, or None."""
        return self.hf.pad_token or None

    @property
    def bos_id(self) -> int | None:
        """Id of ``bos_token``."""
        return self._ids.get(self.bos_token) if self.bos_token else None

    @property
    def eos_id(self) -> int | None:
        """Id of ``eos_token``."""
        return self._ids.get(self.eos_token) if self.eos_token else None

    @property
    def pad_id(self) -> int | None:
        """Id of ``pad_token``."""
        return self._ids.get(self.pad_token) if self.pad_token else None

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own Jinja template; of several the one called default."""
        template: str | dict[str, str] | None = self.hf.chat_template
        return template.get("default") if isinstance(template, dict) else template

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that text never becomes and that ``decode`` leaves out (the unknown token is not among them)."""
        return self._special_ids

    def __len__(self) -> int:
        """Number of ids; they run from 0 to ``len - 1``."""
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: no BOS, no EOS, and ``</s>`` in it is four ordinary characters.

        SentencePiece models of the LLaMA kind put one space before the text (their dummy prefix), each time.
        """
        if self._processor is not None:
            ids: list[int] = self._processor.encode(text)
            return ids
        assert self._backend is not None
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        if self._processor is not None:
            rows: list[list[int]] = self._processor.encode(list(texts)) if texts else []
            return rows
        assert self._backend is not None
        return [list(row.ids) for row in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_piece(self, piece: str) -> list[int]:
        """Ids that spell ``piece`` (written as ``pieces`` writes it), with no dummy prefix and no unknown token."""
        if self._processor is not None:
            if self._piece_processor is None:
                assert self.sentencepiece_model is not None
                self._piece_processor = spm.processor(
                    self.sentencepiece_model, special_ids=self._special_ids, dummy_prefix=False
                )
            unknown = self._piece_processor.unk_id()
            ids = self._piece_processor.encode(piece.replace(spm.SPACE, " "))
            return [index for index in ids if index != unknown]
        assert self._backend is not None
        # The model alone, without the steps that cut text into words: a piece is already in the model's spelling.
        return [token.id for token in self._backend.model.tokenize(piece) if token.id != self.hf.unk_token_id]

    def special_id(self, token: str) -> int:
        """Id of ``token``; UserError when it is not one token of the vocabulary."""
        if token not in self._ids:
            raise UserError(
                self.source or "tokenizer",
                f"{token!r} is not one token of the vocabulary of {len(self):,}",
                expected="a token that the tokenizer knows",
                mend=did_you_mean(token, (self._pieces[index] for index in self._special_ids)),
            )
        return self._ids[token]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``; bytes that are no UTF-8 become U+FFFD, rows beyond the vocabulary (padding) nothing."""
        known = [index for index in ids if 0 <= index < len(self._pieces)]
        if self._processor is None:
            text: str = self.hf.decode(known, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
            return text
        if skip_special:
            plain: str = self._processor.decode([index for index in known if index not in self._special_ids])
            return plain
        return "".join(self._decode_runs(known))

    def _decode_runs(self, ids: Iterable[int]) -> Iterable[str]:
        """Runs of ordinary ids as text, special ids by name; each run loses its own dummy prefix."""
        assert self._processor is not None
        run: list[int] = []
        for index in ids:
            if index in self._special_ids:
                yield self._processor.decode(run)
                yield self._pieces[index]
                run = []
            else:
                run.append(index)
        yield self._processor.decode(run)

    def token_bytes(self, index: int) -> bytes:
        """UTF-8 bytes that the token ``index`` stands for; a byte token gives one, the unknown token none."""
        if self._bytes is None:
            # Asked for every token of a text: the backends answer such questions slowly, so all are answered once.
            added, byte_level = frozenset(self.hf.added_tokens_decoder), self.is_byte_level
            self._bytes = [self._bytes_of(i, added, byte_level) for i in range(len(self._pieces))]
        return self._bytes[index]

    def _bytes_of(self, index: int, added: frozenset[int], byte_level: bool) -> bytes:
        piece = self._pieces[index]
        if index in self._special_ids or index in added:
            return b"" if index == self.hf.unk_token_id else piece.encode()
        if byte_level:
            return hf_backend.bytes_of(piece)
        byte = BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(spm.SPACE, " ").encode()

    @property
    def is_byte_level(self) -> bool:
        """Whether pieces are spelled in the byte alphabet of GPT-2 (``Ġ`` for a space)."""
        return self._backend is not None and hf_backend.is_byte_level(self._backend)

    def pieces(self) -> list[str]:
        """Tokens by id in the spelling of the vocabulary (``▁`` or ``Ġ`` for a space); a hole is an empty string."""
        return list(self._pieces)

    def extends(self, other: TextTokenizer) -> bool:
        """Whether the first ``len(other)`` pieces are those of ``other``, so that old ids keep their meaning."""
        return len(self) >= len(other) and self._pieces[: len(other)] == other._pieces


def _backend_of(hf: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(hf, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            hf.name_or_path or "tokenizer",
            f"{type(hf).__name__} has no fast tokenizer",
            expected="tokenizer.json or a SentencePiece tokenizer.model",
        )
    return backend


def _pieces_by_id(hf: PreTrainedTokenizerBase) -> list[str]:
    vocabulary: dict[str, int] = hf.get_vocab()
    pieces = [""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, index in vocabulary.items():
        pieces[index] = piece
    return pieces


def _same_pieces(model: bytes, pieces: Sequence[str]) -> bool:
    own = [piece.piece for piece in spm.parse(model).pieces]
    return own == list(pieces[: len(own)])


def _special_ids(hf: PreTrainedTokenizerBase) -> frozenset[int]:
    special = {index for index, token in hf.added_tokens_decoder.items() if token.special}
    special |= {index for index in hf.all_special_ids if index is not None}
    # Text can rightly be unknown. Where one token has both roles (GPT-2) it stays special.
    roles = {hf.bos_token_id, hf.eos_token_id, hf.pad_token_id}
    if hf.unk_token_id is not None and hf.unk_token_id not in roles:
        special.discard(hf.unk_token_id)
    return frozenset(special)
