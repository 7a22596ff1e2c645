"""Which rows a run reads and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanlin.errors import UserError

OnTemplateDifference = Literal["stop", "named", "own"]
"""What to do when a named template and the checkpoint's own write different tokens."""


def _check_fraction(flag: str, value: float, *, upper: str) -> None:
    if not 0 <= value < 1:
        raise UserError(
            flag,
            f"is {value:g}",
            expected=f"a fraction from 0 up to {upper}",
            mend=f"write {value / 100:g} for {value:g} percent" if 1 <= value < 100 else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Files, validation part and the limits that hold for every kind of data."""

    dataset: tuple[str, ...]
    """Files, folders or globs to train on."""
    validation_file: tuple[str, ...] = ()
    """Files or folders to evaluate on. Wins over --validation_split_percentage."""
    validation_split_percentage: float = 0.0
    """Share of the training rows set aside for evaluation, as a fraction: 0.05 is 5 %. The name is the older tools'."""
    max_dropped: float = 0.01
    """Largest share of rows that may be dropped or cut before the run stops, as a fraction."""
    max_train_samples: int | None = None
    """Train on this many rows drawn with the seed. Default: all."""
    max_eval_samples: int | None = None
    """Evaluate on this many rows drawn with the seed. Default: all."""
    data_cache_dir: str | None = None
    """Folder of the prepared tokens. Default: token_cache inside --output_dir's parent."""
    max_length: int = 1024
    """Longest row or block, in tokens."""

    def __post_init__(self) -> None:
        if not self.dataset:
            raise UserError("--dataset", "is empty", expected="at least one file or folder")
        _check_fraction("--validation_split_percentage", self.validation_split_percentage, upper="1")
        _check_fraction(
            "--max_dropped",
            min(self.max_dropped, 0.999) if self.max_dropped == 1 else self.max_dropped,
            upper="1",
        )
        for flag, value in (
            ("--max_train_samples", self.max_train_samples),
            ("--max_eval_samples", self.max_eval_samples),
        ):
            if value is not None and value < 1:
                raise UserError(flag, f"is {value}", expected="1 or more")
        if self.max_length < 8:
            raise UserError("--max_length", f"is {self.max_length}", expected="8 or more tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """How plain text becomes documents and blocks."""

    document: Literal["line", "blank_line", "file"] = "line"
    """What a document of a .txt file is: each line, text between empty lines, or the whole file."""
    text_field: str = "text"
    """Field of .jsonl and .parquet rows that holds the text."""
    add_bos: bool = True
    """Begin every document as the tokenizer begins a text: with BOS for most, where it has one and its configuration
    does not rule it out; with [gMASK] sop for ChatGLM."""
    add_eos: bool = True
    """End every document with the EOS token, so that the model learns to stop."""
    packing: bool = True
    """Put several documents into a block of --max_length tokens; they do not see one another. false: one document
    (or one piece of a longer one) a row, padded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionConfig:
    """How conversations become tokens and which of them are trained."""

    template: str | None = None
    """Name of a prompt template, see hanlin templates. published: alpaca or llama2-zh, by the tokenizer, as the scripts
    of 2023 did. Default: the tokenizer's own chat template."""
    system: str | None = None
    """System prompt in place of the template's default. An empty text means none."""
    on_template_difference: OnTemplateDifference = "stop"
    """When the named template writes other tokens than the checkpoint's own chat template: stop and show them, or take
    the named or the own one."""
    train_on: Literal["all", "last"] = "all"
    """Train every answer of a conversation, or the last one only."""
    overlong: Literal["cut", "drop", "error"] = "cut"
    """A row above --max_length: cut it (prompt first, the stop token stays), drop it, or stop. The ledger tells."""
