"""Which script a character belongs to: where learned pieces end, and how a report groups its counts."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

SCRIPTS = ("Han", "Kana", "Hangul", "Latin", "Cyrillic", "digits/punctuation", "other")
"""Groups of a report. Symbols count as punctuation; emoji, marks and all other letters are ``other``."""

_BY_NAME = {
    "LATIN": "Latin",
    "FULLWIDTH LATIN": "Latin",
    "CYRILLIC": "Cyrillic",
    "HANGUL": "Hangul",
    "HALFWIDTH HANGUL": "Hangul",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "HALFWIDTH KATAKANA": "Kana",
    "CJK UNIFIED": "Han",
    "CJK COMPATIBILITY IDEOGRAPH": "Han",
    "KANGXI RADICAL": "Han",
    "CJK RADICAL": "Han",
}
"""Beginning of the Unicode character name to group."""


@lru_cache(maxsize=1 << 16)
def script_of(char: str) -> str:
    """Group of one character, one of ``SCRIPTS``, or ``space``."""
    category = unicodedata.category(char)
    if char.isspace() or category == "Zs":
        return "space"
    if char in "〇々":  # U+3007 and U+3005 are written as characters, whatever their category says
        return "Han"
    if category[0] in "NP" or category in ("Sm", "Sc", "Sk"):
        return "digits/punctuation"
    name = unicodedata.name(char, "")
    for beginning, script in _BY_NAME.items():
        if name.startswith(beginning):
            return script
    return "Han" if 0x20000 <= ord(char) <= 0x3FFFF else "other"  # ideographs newer than Python's table


def may_join(left: str, right: str) -> bool:
    """Whether a learned piece may hold the character ``left`` followed by ``right``.

    As SentencePiece does while training: no piece crosses scripts (Han and Kana count as one, 食べる), digits stay
    alone, and a space only begins a piece.
    """
    if right == "\u2581" or right.isspace() or left.isspace() or left.isdigit() or right.isdigit():
        return False
    if unicodedata.category(right)[0] == "M":
        return True
    second = script_of(right)
    if left == "\u2581":
        # Chinese and Japanese are written without spaces: ▁我 would only be 我 once more, for the starts of lines.
        return second not in ("Han", "Kana", "digits/punctuation")
    first = script_of(left)
    return first == second or {first, second} == {"Han", "Kana"}
