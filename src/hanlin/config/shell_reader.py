"""The words of a shell script, read and never run: quotes, line continuations, variables, and what breaks them.

Only as much of the shell's grammar as launch scripts use. Where the text is broken (a backslash followed by a space, a
quote of a word processor) the fault is noted and reading goes on as was meant, so that one slip does not hide another.
"""

from __future__ import annotations

import re
from typing import Literal

from hanlin.config.shell import Command, Fault, Opaque, Part, Variable, Word
from hanlin.config.words import FOREIGN_QUOTES, FOREIGN_SPACES, LONG_DASHES, MANUAL_BRACKETS

_NAME = re.compile(r"[A-Za-z_]\w*")
_BRACES = re.compile(r"[#!]?([A-Za-z_]\w*|[0-9@*#?$!-])(\[[^\]]*\])?(.*)", re.DOTALL)
_ALTERNATIVES = re.compile(r"\[(\w+)(?:\|\w+)+\]")
_STRAY_SPACE = re.compile(r"\\[ \t]+(?=\n|$)")
_FULL_WIDTH = {"－": "-", "＝": "=", "＄": "$", "｛": "{", "｝": "}", "＼": "\\", "，": ",", "／": "/", "＿": "_"}
_PRINTING = ("echo", "printf")


def read_script(text: str) -> tuple[list[Command], list[Fault]]:
    """The commands of a script, in order, and the faults of its characters."""
    faults = []
    crlf = text.count("\r\n")
    if crlf:
        faults.append(
            Fault(
                1,
                r"\r\n",
                f"{crlf} lines end as on Windows, and the shell takes the \\r as part of the last word",
                r"convert the file: sed -i 's/\r$//' FILE",
            )
        )
    if text.startswith("\ufeff"):
        faults.append(Fault(1, "U+FEFF", "a byte order mark stands before the first word", "save as UTF-8 without it"))
    reader = _Reader(text.replace("\r\n", "\n").removeprefix("\ufeff"))
    reader.read()
    return reader.commands, faults + reader.faults


class _Reader:
    """One pass over the characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.commands: list[Command] = []
        self.faults: list[Fault] = []
        self._words: list[Word] = []
        self._word: Word | None = None
        self._has_word_on_line = False
        self._has_comment_on_line = False
        self._skip_next = False
        self._here_documents: list[str] = []

    def read(self) -> None:
        """Read to the end."""
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._end_command("line")

    def _step(self, char: str) -> None:
        here = self.text.startswith
        if char == "\n":
            self._end_line()
        elif char in " \t\r":
            self._end_word()
            self.at += 1
        elif char == "#" and self._word is None:
            self._has_comment_on_line = True
            self._skip_to_line_end()
        elif char == "\\":
            self._backslash()
        elif char == "'" or here("$'", self.at):
            self.at += 2 if char == "$" else 1
            self._quoted("'")
        elif char == '"':
            self.at += 1
            self._quoted('"')
        elif char == "`":
            end = self._find("`", self.at + 1)
            self._add(Opaque(self._take(end + 1)))
        elif char == "$":
            self._dollar()
        elif char in "<>" or here("&>", self.at):
            self._redirection()
        elif char in ";&|()":
            self._operator(char)
        elif char == "[" and (match := _ALTERNATIVES.match(self.text, self.at)):
            self._fault(match[0], "the bar is a pipe to the shell", MANUAL_BRACKETS)
            self._add(match[1])
            self.at = match.end()
        elif not self._foreign(char):
            self._add(char)
            self.at += 1

    def _foreign(self, char: str) -> bool:
        """Take a character that the shell does not know but a wiki page or word processor writes."""
        if self._words and self._words[0].text in _PRINTING:
            return False
        if char in FOREIGN_SPACES:
            self._fault(FOREIGN_SPACES[char], "is part of a word to the shell", "replace it by an ordinary space")
            self._end_word()
        elif char in FOREIGN_QUOTES:
            self._fault(char, "is no quote to the shell", "write \" or '")
        elif char in LONG_DASHES and self._word is None:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] in LONG_DASHES + "-":
                self.at += 1
            name = re.match(r"\w*", self.text[self.at :])
            rest = name[0] if name else ""
            self._fault(self.text[start : self.at] + rest, "begins with a long dash", f"write --{rest}")
            self._add("--")
            return True
        elif char in _FULL_WIDTH:
            self._fault(char, "is a full-width character", f"write {_FULL_WIDTH[char]}")
            # Read again as the character that was meant.
            self.text = self.text[: self.at] + _FULL_WIDTH[char] + self.text[self.at + 1 :]
            return True
        else:
            return False
        self.at += 1
        return True

    def _backslash(self) -> None:
        stray = _STRAY_SPACE.match(self.text, self.at)
        if stray:
            self._fault(
                self._source_line(),
                "a space follows the backslash, so the command ends here and gets an argument of one space",
                "delete what follows the backslash",
            )
            self.at = stray.end() - 1  # as if the backslash were the last character of the line
        following = self.text[self.at + 1 : self.at + 2]
        if stray or following == "\n":
            if stray:
                self._end_word()
            self.at += 2
            self._next_line()
        else:
            self._add(following)
            self.at += 2

    def _quoted(self, quote: str) -> None:
        """Text between quotes; the opening one has been taken."""
        word = self._open_word()
        word.quoted = True
        opened, source = self.line, self._source_line()
        while self.at < len(self.text) and self.text[self.at] != quote:
            char = self.text[self.at]
            if quote == '"' and char == "$":
                self._dollar()
                continue
            if quote == '"' and char == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "$", "\\", "`"):
                self.at += 1
                char = self.text[self.at]
            elif quote == '"' and self.text.startswith("\\\n", self.at):
                char = ""
                self.at += 1
            if self.text[self.at] == "\n":
                self.line += 1
            word.parts.append(char)
            self.at += 1
        if self.at >= len(self.text):
            self.faults.append(Fault(opened, source, f"the quote {quote} is never closed", "close it"))
        self.at += 1

    def _dollar(self) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        if following == "(":
            self._add(Opaque(self._take(self._closing("(", ")", self.at + 1) + 1)))
        elif following == "{":
            self._braces()
        elif match := _NAME.match(self.text, self.at + 1):
            self.at = match.end()
            self._add(Variable(match[0], False, self.line))
        elif following and following in "0123456789@*#?$!-":
            self._add(Opaque(self._take(self.at + 2)))
        else:
            self._add("$")
            self.at += 1

    def _braces(self) -> None:
        end = self._closing("{", "}", self.at + 1)
        source = self._take(end + 1)
        match = _BRACES.fullmatch(source[2:-1])
        if match is None or source[2:4] == "--" or not re.match(r"$|[:+=?#%/^,@-]", match[3]):
            # bash reads ${--flag} as its own option letters, with a default; other shells stop at it.
            self._fault(source, "names no variable", "write the name of one: ${name}")
            self._add(Opaque(source))
        elif not _NAME.fullmatch(match[1]) or match[2] or source[2] in "#!":
            self._add(Opaque(source))
        else:
            self._add(Variable(match[1], match[3].startswith((":-", "-", ":=", "=", ":+", "+")), self.line))

    def _redirection(self) -> None:
        if self._word is not None and self._word.text.isdigit():
            self._word = None
        self._end_word()
        match = re.compile(r"&?[<>]+[&|]?-?").match(self.text, self.at)
        assert match is not None, "called at a < or >"
        self.at = match.end()
        if match[0].startswith("<<") and not match[0].startswith("<<<"):
            name = re.compile(r"""[ \t]*['"]?(\w+)['"]?""").match(self.text, self.at)
            if name:
                self._here_documents.append(name[1])
        self._skip_next = True

    def _operator(self, char: str) -> None:
        if char == "(" and self._word is not None and self._word.text.endswith("="):
            self._add(Opaque(self._take(self._closing("(", ")", self.at) + 1)))
            return
        self._end_command("operator")
        self.at += 1

    def _end_line(self) -> None:
        ended: Literal["line", "blank line", "comment"] = "line"
        if self._words and not self._has_word_on_line and self._word is None:
            ended = "comment" if self._has_comment_on_line else "blank line"
        self._end_command(ended)
        self.at += 1
        self._next_line()
        for name in self._here_documents:
            match = re.compile(rf"(?:.*\n)*?[ \t]*{name}[ \t]*(?:\n|$)").match(self.text, self.at)
            if match:
                self.line += match[0].count("\n")
                self.at = match.end()
        self._here_documents.clear()

    def _next_line(self) -> None:
        self.line += 1
        self._has_word_on_line = self._has_comment_on_line = False

    def _end_command(self, ended_by: Literal["line", "blank line", "comment", "operator"]) -> None:
        self._end_word()
        if self._words:
            self.commands.append(Command(self._words, self.line, ended_by))
            self._words = []
        self._skip_next = False

    def _open_word(self) -> Word:
        if self._word is None:
            self._word = Word(self.line)
        return self._word

    def _add(self, part: Part) -> None:
        word = self._open_word()
        if isinstance(part, str) and not word.quoted and all(isinstance(other, str) for other in word.parts):
            word.raw_start += part
        word.parts.append(part)

    def _end_word(self) -> None:
        if self._word is not None:
            if not self._skip_next:
                self._words.append(self._word)
            self._skip_next = False
            self._has_word_on_line = True
            self._word = None

    def _skip_to_line_end(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = end if end >= 0 else len(self.text)

    def _find(self, char: str, start: int) -> int:
        end = self.text.find(char, start)
        return end if end >= 0 else len(self.text) - 1

    def _closing(self, opening: str, closing: str, start: int) -> int:
        """Index of the bracket that closes the one at ``start``."""
        depth = 0
        for index in range(start, len(self.text)):
            depth += {opening: 1, closing: -1}.get(self.text[index], 0)
            if depth == 0:
                return index
        return len(self.text) - 1

    def _take(self, end: int) -> str:
        taken = self.text[self.at : end]
        self.line += taken.count("\n")
        self.at = end
        return taken

    def _source_line(self) -> str:
        start = self.text.rfind("\n", 0, self.at) + 1
        return self.text[start:].split("\n", 1)[0].strip()

    def _fault(self, text: str, why: str, mend: str) -> None:
        fault = Fault(self.line, text, why, mend)
        if fault not in self.faults:
            self.faults.append(fault)
