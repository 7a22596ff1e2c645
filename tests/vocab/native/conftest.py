"""Texts that tokenizers of 2023 are compared on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def fragments() -> list[str]:
    return [
        " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "a", "aa", "aaaaaaa", "b", "bbbb", "river", " The", "'LL", "I'm",
        "先生", "先生先生先生", "在学校里", "，", "。。。", "唱歌", "龘", "𠮷", "😀", "👩‍🔬", "é", "e\u0301", "한국어",
        "русский",
        "0", "12345", "-", "----====", "!?", "(x)", "\u200b", "\u3000",
    ]  # fmt: skip
