"""Settings of the tokenizer verbs: train one, extend one, measure one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hanlin.config.hub import TokenizerHubConfig
from hanlin.errors import UserError


def _check_learning(character_coverage: float, max_piece_length: int, max_characters: int | None) -> None:
    if not 0 < character_coverage <= 1:
        raise UserError("--character_coverage", f"is {character_coverage:g}", expected="a share above 0, at most 1")
    if not 1 <= max_piece_length <= 64:
        raise UserError("--max_piece_length", f"is {max_piece_length}", expected="1 to 64 characters")
    if max_characters is not None and max_characters < 1:
        raise UserError("--max_characters", f"is {max_characters}", expected="1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerTrain:
    """Train a tokenizer on a corpus."""

    positional: ClassVar[tuple[str, ...]] = ("corpus",)

    corpus: tuple[str, ...]
    """Files, folders or globs of text to learn from."""
    output_dir: str
    """Folder to write the tokenizer to."""
    kind: Literal["sentencepiece", "bytes"] = "sentencepiece"
    """sentencepiece: BPE with LLaMA's settings and byte fallback. bytes: byte-level BPE, as Qwen's."""
    vocab_size: int = 32000
    """Number of tokens, special ones and the 256 bytes included."""
    character_coverage: float = 0.9995
    """sentencepiece only: share of all characters of the corpus that get a piece; the rarest are spelled in bytes."""
    max_piece_length: int = 16
    """Longest token in characters."""
    pad_token: str | None = None
    """Add this token for filling rows, such as <pad>."""
    special_tokens: tuple[str, ...] = ()
    """Further tokens that text never becomes, such as <|im_start|>,<|im_end|>."""
    document: Literal["line", "blank_line", "file"] = "line"
    """What a document of a .txt file is: each line, text between empty lines, or the whole file."""
    text_field: str = "text"
    """Field of .jsonl and .parquet rows that holds the text."""
    max_characters: int | None = None
    """Learn from this many characters from the start of the corpus. Default: all."""
    overwrite: bool = False
    """Replace a tokenizer that lies in the output folder."""

    def __post_init__(self) -> None:
        _check_learning(self.character_coverage, self.max_piece_length, self.max_characters)
        if self.vocab_size < 260:
            raise UserError("--vocab_size", f"is {self.vocab_size}", expected="260 or more: 256 are bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerExtend:
    """Add pieces to a tokenizer, so that a language costs fewer tokens. Old ids keep their meaning."""

    positional: ClassVar[tuple[str, ...]] = ("tokenizer",)

    tokenizer: str
    """Tokenizer to extend: folder, tokenizer.model file or hub id."""
    output_dir: str
    """Folder to write the extended tokenizer to."""
    pieces_from: str | None = None
    """Take the pieces of this tokenizer: a SentencePiece model file, a folder or a hub id; of the kind of the first."""
    corpus: tuple[str, ...] = ()
    """Learn the pieces from these files, folders or globs of text instead."""
    vocab_size: int = 20000
    """With --corpus: number of new pieces, the pad token not counted."""
    character_coverage: float = 0.9995
    """With --corpus: share of all its characters that get a piece; the rarest stay bytes. SentencePiece only."""
    max_piece_length: int = 16
    """With --corpus: longest new piece in characters."""
    pad_token: str | None = None
    """Add this token for filling rows, such as [PAD], or name one that the vocabulary has."""
    pad_to_multiple_of: int | None = None
    """The model's embedding rows shall be a multiple of this, such as 64. Written beside the tokenizer, which itself
    gets no filling pieces."""
    document: Literal["line", "blank_line", "file"] = "line"
    """What a document of a .txt file is: each line, text between empty lines, or the whole file."""
    text_field: str = "text"
    """Field of .jsonl and .parquet rows that holds the text."""
    max_characters: int | None = None
    """Learn from this many characters from the start of the corpus. Default: all."""
    overwrite: bool = False
    """Replace a tokenizer that lies in the output folder."""
    hub: TokenizerHubConfig = field(default_factory=TokenizerHubConfig)

    def __post_init__(self) -> None:
        _check_learning(self.character_coverage, self.max_piece_length, self.max_characters)
        if self.pieces_from and self.corpus:
            raise UserError("--pieces_from", "and --corpus are both given", expected="one source of new pieces")
        if not self.pieces_from and not self.corpus and not self.pad_token:
            raise UserError(
                "--pieces_from",
                "is missing",
                expected="--pieces_from MODEL, --corpus FILES or --pad_token TOKEN",
            )
        if self.vocab_size < 1:
            raise UserError("--vocab_size", f"is {self.vocab_size}", expected="1 new piece or more")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise UserError("--pad_to_multiple_of", f"is {self.pad_to_multiple_of}", expected="1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerReport:
    """Measure a tokenizer: sizes, duplicates, round trips, tokens per character by script."""

    positional: ClassVar[tuple[str, ...]] = ("tokenizer",)

    tokenizer: str
    """Tokenizer to measure: folder, tokenizer.model file or hub id."""
    before: str | None = None
    """Tokenizer to compare with, such as the one that was extended."""
    corpus: tuple[str, ...] = ()
    """Files, folders or globs of your own text. Default: the vocabulary alone is described."""
    text: str | None = None
    """One text to show as pieces, and to measure when there is no --corpus."""
    document: Literal["line", "blank_line", "file"] = "line"
    """What a document of a .txt file is: each line, text between empty lines, or the whole file."""
    text_field: str = "text"
    """Field of .jsonl and .parquet rows that holds the text."""
    max_characters: int | None = None
    """Measure this many characters from the start of the corpus. Default: all."""
    json: str | None = None
    """Write the report to this file, too."""
    hub: TokenizerHubConfig = field(default_factory=TokenizerHubConfig)

    def __post_init__(self) -> None:
        if self.max_characters is not None and self.max_characters < 1:
            raise UserError("--max_characters", f"is {self.max_characters}", expected="1 or more")
