"""One tokenizer for the whole toolkit: text to ids and back, whatever library wrote its files.

Why not simply transformers: with the tokenizer of Chinese-LLaMA-2 (55,296 pieces, of which 23,296 share the score 0)
transformers 5.23 converts the SentencePiece model to merges, and a list of merges cannot express a tie. SentencePiece
takes the leftmost of equal candidates. 750 of the 2,139 texts of a Chinese instruction file (1,000 records) came out
with other ids than SentencePiece gives, while models were trained on the latter's. So where a ``tokenizer.model`` lies
in the folder, SentencePiece itself encodes; it is also three times as fast (0.04 s against 0.12 s for these texts).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hanlin.errors import UserError, did_you_mean
from hanlin.files import sync, write_failure, write_json
from hanlin.names import is_hub_id
from hanlin.vocab import backend as hf_backend
from hanlin.vocab import spm
from hanlin.vocab.native import QWEN_FILE, Description, load_native, wants_own_code
from hanlin.vocab.pretrained import from_folder, from_pretrained, hub_file, hub_folder, names_empty_tokens

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
        self._prefix_ids = self._find_prefix() if prefix is None else tuple(self._ids[token] for token in prefix)
        self._tiktoken_file: bytes | None = None
        self._is_converted = False

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
    def load(
        cls,
        path: str,
        *,
        place: str = "--tokenizer",
        revision: str | None = None,
        cache_dir: str | None = None,
    ) -> TextTokenizer:
        """Read a tokenizer from a folder, a SentencePiece file (``.../tokenizer.model``) or a hub id.

        Code that comes with a tokenizer is never run. Raises UserError at ``place`` when there is nothing to read.
        """
        local = Path(path).expanduser()
        if local.is_dir():
            return cls._load_folder(local, place)._with_record(local)
        if local.is_file():
            described = (local.parent / "tokenizer_config.json").is_file()
            if local.suffix == ".json" or local.name == QWEN_FILE or (local.name == MODEL_FILE and described):
                return cls._load_folder(local.parent, place)._with_record(local.parent)
            return cls.from_sentencepiece(spm.read_model(local, place=place), source=local.parent)
        if not is_hub_id(path):
            raise UserError(place, f"{path} does not exist", expected="a folder, a tokenizer.model file or a hub id")
        return cls._load_hub(path, place, revision, cache_dir)

    @classmethod
    def from_sentencepiece(
        cls,
        model: bytes,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        special_tokens: Sequence[str] = (),
        like: PreTrainedTokenizerBase | None = None,
        source: Path | None = None,
    ) -> TextTokenizer:
        """A tokenizer from the bytes of a SentencePiece model alone, as LLaMA was first given out.

        BOS and EOS are the model's own unless named; ``special_tokens`` are further pieces that text never becomes.
        The transformers object puts BOS before a text, as LLaMA does (left to itself, transformers 5.23 would not for
        a folder without a configuration). ``like`` lends its chat template, length limit and BOS/EOS rule.
        """
        proto = spm.parse(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        tokens: dict[str, str] = {}
        for name, given, own in (
            ("bos_token", bos_token, processor.bos_id()),
            ("eos_token", eos_token, processor.eos_id()),
            ("unk_token", None, processor.unk_id()),
            ("pad_token", pad_token, processor.pad_id()),
        ):
            if given is not None:
                tokens[name] = given
            elif own >= 0:
                tokens[name] = processor.id_to_piece(own)
        # from_pretrained needs a folder: LlamaTokenizer(vocab_file=...) silently gives a tokenizer of three tokens.
        rules: dict[str, Any] = {"add_bos_token": "bos_token" in tokens, "add_eos_token": False, "legacy": True}
        for name in ("add_bos_token", "add_eos_token", "add_prefix_space", "model_max_length"):
            if getattr(like, name, None) is not None:
                rules[name] = getattr(like, name)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / MODEL_FILE).write_bytes(model)
            if proto.trainer_spec.model_type == spm.BPE_MODEL:
                hf = LlamaTokenizer.from_pretrained(folder, **rules, **tokens)
            else:
                hf = AutoTokenizer.from_pretrained(folder, **tokens)
        hf.name_or_path = str(source) if source else ""
        hf.add_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
        if like is not None:
            hf.chat_template = like.chat_template
        return cls(hf, model=model, source=source)

    @classmethod
    def _load_folder(cls, folder: Path, place: str) -> TextTokenizer:
        native = load_native(folder, place)
        if native is not None:
            tokenizer = cls(native.hf, model=native.model, prefix=native.prefix, source=folder)
            tokenizer._is_converted = True
            return tokenizer
        model_file = folder / MODEL_FILE
        described = any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
        if not described and not model_file.is_file():
            if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                return cls(from_pretrained(str(folder), place), source=folder)
            raise UserError(
                place,
                f"{folder} holds no tokenizer",
                expected="tokenizer.json, tokenizer_config.json or tokenizer.model in it",
            )
        data = model_file.read_bytes() if model_file.is_file() else None
        model = data if data is not None and spm.is_model(data) else None
        if not described:
            return cls.from_sentencepiece(spm.read_model(model_file, place=place), source=folder)
        if model is not None and names_empty_tokens(folder):
            return cls.from_sentencepiece(model, source=folder)
        # What was built from qwen.tiktoken: beside a Qwen2 model transformers would take its Qwen2Tokenizer, which
        # builds another one from the vocabulary and the merges.
        kind = PreTrainedTokenizerFast if (folder / QWEN_FILE).is_file() else AutoTokenizer
        hf, is_repaired = from_folder(folder, place, kind=kind)
        tokenizer = cls(hf, model=model, source=folder)
        tokenizer._is_converted = is_repaired
        return tokenizer

    @classmethod
    def _load_hub(cls, name: str, place: str, revision: str | None, cache_dir: str | None) -> TextTokenizer:
        # Fetched first, so that a name that is nowhere is answered at once and not after many tries for each file.
        folder = hub_folder(name, place, revision, cache_dir)
        if wants_own_code(folder):
            return cls._load_folder(folder, place)._with_record(folder)
        hf = from_pretrained(name, place, revision=revision or "main", cache_dir=cache_dir)
        found = hub_file(name, MODEL_FILE, revision, cache_dir)
        data = found.read_bytes() if found else None
        return cls(hf, model=data if data is not None and spm.is_model(data) else None)._with_record(folder)

    def _with_record(self, folder: Path) -> TextTokenizer:
        """Take over what ``save`` wrote for hanlin alone, and the original of a converted vocabulary."""
        record_file, original = folder / RECORD_FILE, folder / QWEN_FILE
        if record_file.is_file():
            try:
                record = json.loads(record_file.read_text(encoding="utf-8"))
                self.pad_to_multiple_of = record.get("pad_to_multiple_of")
                if "prefix" in record:
                    self._prefix_ids = tuple(self.special_id(token) for token in record["prefix"])
            except (ValueError, AttributeError) as error:
                raise UserError(
                    record_file, "is not a JSON object", mend="delete it, or run hanlin tokenizer again"
                ) from error
        # transformers has the same attribute, false as well where nothing is said.
        if Description.read(folder).tokenizer.get("add_bos_token") is False and self._prefix_ids == (self.bos_id,):
            self._prefix_ids = ()
        if original.is_file():
            self._tiktoken_file = original.read_bytes()
        return self

    def with_prefix_of(self, other: TextTokenizer) -> TextTokenizer:
        """Begin texts as ``other`` does, whose tokens this one has with the same ids."""
        self._prefix_ids = other.prefix_ids
        return self

    def _find_prefix(self) -> tuple[int, ...]:
        """Ids before every text: those that transformers' tokenizer puts there, else BOS if there is one."""
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
    def is_converted(self) -> bool:
        """Whether the files of ``source`` are of no use to others as they are, so that ``save`` must write new ones."""
        return self._is_converted

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Ids before every text and conversation: BOS for most, [gMASK] and sop for ChatGLM, none for Qwen."""
        return self._prefix_ids

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

    def save(self, directory: Path) -> None:
        """Write transformers' files, ``tokenizer.model`` as it was read, and the BOS rule, each aside and renamed.

        ``save_pretrained`` alone (5.23) drops ``tokenizer.model`` and, where only that is read back, the BOS rule.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".tokenizer-", dir=directory))
        except OSError as error:
            raise UserError(directory, f"cannot write the tokenizer: {error.strerror or error}") from error
        try:
            self.hf.save_pretrained(aside)
            self._complete_files(aside)
            for path in sorted(aside.iterdir()):
                sync(path)
                path.replace(directory / path.name)
        except Exception as error:  # the tokenizers library tells of a full disk by a bare Exception
            reason = write_failure(error)
            if reason is None:
                raise
            raise UserError(directory, f"cannot write the tokenizer: {reason}", mend="free some space") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _complete_files(self, folder: Path) -> None:
        config_file = folder / "tokenizer_config.json"
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
        for machine_bound in ("name_or_path", "is_local", "local_files_only", "vocab_file"):
            config.pop(machine_bound, None)
        if self.sentencepiece_model is not None:
            (folder / MODEL_FILE).write_bytes(self.sentencepiece_model)
        record: dict[str, Any] = {"num_tokens": len(self), "identity": self.identity}
        if self.sentencepiece_model is not None and len(self._prefix_ids) < 2:
            config["add_bos_token"] = bool(self._prefix_ids)
            config["add_eos_token"] = bool(getattr(self.hf, "add_eos_token", False))
        elif self._prefix_ids != self._find_prefix():
            record["prefix"] = [self._pieces[index] for index in self._prefix_ids]
        if self._tiktoken_file is not None:
            (folder / QWEN_FILE).write_bytes(self._tiktoken_file)
        if self.pad_to_multiple_of is not None:
            record["pad_to_multiple_of"] = self.pad_to_multiple_of
        if len(record) > 2:
            write_json(folder / RECORD_FILE, record)
        write_json(config_file, config)
        # transformers 5 keeps these in tokenizer_config.json; tools of 2023 read the map.
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        tokens = {name: str(getattr(self.hf, name)) for name in names if getattr(self.hf, name)}
        write_json(folder / "special_tokens_map.json", tokens)


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
