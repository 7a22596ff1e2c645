"""The published template of a tokenizer."""

from __future__ import annotations

import pytest

from hanlin.template.published import published_template


@pytest.mark.parametrize(
    ("num_tokens", "pad_token", "expected"),
    [
        (49954, "[PAD]", "alpaca"),
        (49954, None, "alpaca"),
        (55296, "<pad>", "llama2-zh"),
        (55296, None, "llama2-zh"),
        (40000, "<pad>", "llama2-zh"),
        (40000, "[PAD]", "alpaca"),
        (49953, None, None),
        (32000, "</s>", None),
    ],
)
def test_size_decides_and_then_the_padding_token(num_tokens: int, pad_token: str | None, expected: str | None) -> None:
    assert published_template(num_tokens, pad_token) == expected
