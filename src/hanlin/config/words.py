"""What goes wrong between a shell script and the words that reach a command: stray spaces, quotes, line ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hanlin.errors import UserError

LONG_DASHES = "‐‑‒–—―−－"
"""Characters that word processors and wiki pages write in place of a hyphen."""

EMPTY_VARIABLE = "if the value comes from a shell variable, that variable is empty or its name is misspelt"
STRAY_SPACE = "a line of the script ends in a backslash and then a space: delete the space after the backslash"
WINDOWS_ENDS = r"the script has Windows line ends: convert it with sed -i 's/\r$//' SCRIPT.sh"
MANUAL_BRACKETS = "the brackets and the bar of the manual were pasted: choose one of the two words"

FOREIGN_QUOTES = "“”„‟‘’‚‛＂＇«»"
FOREIGN_SPACES = {
    "\u3000": "full-width space (U+3000)",
    "\u00a0": "no-break space (U+00A0)",
    "\u2003": "wide space (U+2003)",
    "\u200b": "zero-width space (U+200B)",
    "\ufeff": "byte order mark (U+FEFF)",
}
"""Characters that look like a space or like nothing, and that the shell takes as part of a word."""

FREE_TEXT = frozenset({"system", "system_prompt", "prompt", "text"})
"""Flags whose value is a sentence, in which any character may stand."""

_CHOICE_OF_A_MANUAL = re.compile(r"\[\s*(true|false)\b|^\[[^\]]*\|", re.IGNORECASE)


def check_flag(word: str) -> None:
    """Refuse a word that only looks like ``--flag``. Raises UserError."""
    if word[:1] in LONG_DASHES and word.strip(LONG_DASHES):
        bare = word.strip(LONG_DASHES + "-")
        raise UserError(word, "begins with a long dash", expected="two hyphens", mend=f"write --{bare}")
    name = word.partition("=")[0]
    if word.startswith("--") and "\r" in name:
        raise UserError(name.strip(), "ends in a carriage return", mend=WINDOWS_ENDS)
    found = next((character for character in name if character in FOREIGN_SPACES), None)
    if word.startswith("--") and found:
        flag, _, rest = name.partition(found)
        raise UserError(flag, f"is followed by a {FOREIGN_SPACES[found]}", mend=f"write {flag} {rest}".rstrip())


def check_words(name: str, words: Sequence[str]) -> None:
    """Refuse words after ``--name`` that nobody meant to write. Raises UserError with the mend."""
    place = f"--{name}"
    for word in words:
        if "\r" in word:
            what = (
                "is followed by a lone carriage return" if not word.strip() else f"is {word!r}, a carriage return in it"
            )
            raise UserError(place, what, mend=WINDOWS_ENDS)
        if word and not word.strip(" \t\n"):
            raise UserError(place, "is followed by an argument of white space only", mend=STRAY_SPACE)
        if name in FREE_TEXT:
            continue
        if _CHOICE_OF_A_MANUAL.search(word):
            raise UserError(place, f"is {word!r}", mend=MANUAL_BRACKETS)
        for character in (word[:1], word[-1:]):
            if character in FOREIGN_SPACES:
                raise UserError(
                    place, f"is {word!r}, with a {FOREIGN_SPACES[character]}", mend="replace it by an ordinary space"
                )
            if character and character in FOREIGN_QUOTES:
                raise UserError(
                    place,
                    f"is {word!r}, with the quote {character} that the shell does not know",
                    mend="write \" or ' or no quotes",
                )
