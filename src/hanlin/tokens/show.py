"""Rows of tokens for a person's eyes: what is trained, what is read, what is special."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from hanlin.types import IGNORE_INDEX, Encoded

if TYPE_CHECKING:
    from hanlin.vocab.tokenizer import TextTokenizer

TRAINED_STYLE, READ_STYLE, SPECIAL_STYLE = "green", "dim", "reverse"


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token of a row."""

    id: int
    text: str
    """Its text with a visible mark for each line break; a token that ends within a character is shown as bytes."""
    trained: bool
    special: bool


def shown_tokens(encoded: Encoded, tokenizer: TextTokenizer) -> list[ShownToken]:
    """The tokens of a row, in order."""
    return [
        ShownToken(index, token_text(index, tokenizer), label != IGNORE_INDEX, index in tokenizer.special_ids)
        for index, label in zip(encoded.ids, encoded.labels, strict=True)
    ]


def token_text(index: int, tokenizer: TextTokenizer) -> str:
    """The text of one token, on one line."""
    data = tokenizer.token_bytes(index)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in data)
    return "".join({"\n": "↵", "\t": "⇥", "\r": "␍"}.get(char, char) for char in text)


def paint(tokens: Sequence[ShownToken], *, ids: bool = False) -> Text:
    """The tokens with ``|`` between them, special ones as ``⟨token⟩``, runs of trained ones as ``⟦...⟧``; in colour the
    trained ones are green and the rest dim. With ``ids`` each is followed by its number."""
    painted = Text()
    inside = False
    for position, token in enumerate(tokens):
        if inside and not token.trained:
            painted.append("⟧", "bold green")
        elif position:
            painted.append("|", "dim")
        if token.trained and not inside:
            painted.append("⟦", "bold green")
        inside = token.trained
        style = TRAINED_STYLE if token.trained else READ_STYLE
        if token.special:
            painted.append(f"⟨{token.text}⟩", f"{style} {SPECIAL_STYLE}")
        else:
            painted.append(token.text, style)
        if ids:
            painted.append(f" {token.id}", "cyan")
        if "↵" in token.text and not ids:
            painted.append("\n")
    if inside:
        painted.append("⟧", "bold green")
    return painted
