"""Which of the two published templates a tokenizer of the Chinese-LLaMA-Alpaca kind was trained with."""

from __future__ import annotations

PUBLISHED = "published"
"""Name that asks for the choice, as the entry points of 2023 do."""

_BY_SIZE = {49954: "alpaca", 55296: "llama2-zh"}
_BY_PAD_TOKEN = {"[PAD]": "alpaca", "<pad>": "llama2-zh"}


def published_template(num_tokens: int, pad_token: str | None) -> str | None:
    """``alpaca`` (first generation) or ``llama2-zh`` (second) by the size of the published tokenizers (49,954 and
    55,296), else by the spelling of the padding token that each generation added; None for any other tokenizer."""
    return _BY_SIZE.get(num_tokens) or _BY_PAD_TOKEN.get(pad_token or "")
