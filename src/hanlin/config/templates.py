"""Settings of ``hanlin templates`` and ``hanlin template show``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hanlin.config.hub import TokenizerHubConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatesConfig:
    """List the named templates."""

    positional: ClassVar[tuple[str, ...]] = ("search",)

    search: str | None = None
    """Only templates whose name or family contains this."""
    json: bool = False
    """Print JSON with all parts of each template instead of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateShowConfig:
    """Show how a row becomes tokens, and which of them are trained."""

    positional: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    """Name of a template, or chat_template for the tokenizer's own."""
    tokenizer: str
    """Folder, tokenizer.model file or hub id of the tokenizer."""
    row: str | None = None
    """One row as JSON, in a format that sft reads (Alpaca, messages). Default: a small conversation."""
    system: str | None = None
    """System prompt in place of the template's default. An empty text means none."""
    train_on: Literal["all", "last"] = "all"
    """Train every answer of a conversation, or the last one only."""
    ids: bool = False
    """Print the number of each token behind it."""
    hub: TokenizerHubConfig = field(default_factory=TokenizerHubConfig)
