"""The mistakes of a launch script, found without running it: ``hanlin script check``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from hanlin.config.check_flags import flag_faults
from hanlin.config.shell import Command, Fault, Word
from hanlin.config.shell_reader import read_script
from hanlin.errors import nearest

PLACEHOLDERS = re.compile(r"(^|/)path/to/|^path_to_|^/?your[_/-]|^validation_file_name$", re.IGNORECASE)
"""Values of the published scripts that stand for one's own."""

_LAUNCHERS = {"python", "python3", "torchrun", "deepspeed", "accelerate", "hanlin"}
_PREFIXES = {"nohup", "sudo", "time", "exec", "env", "srun"}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[\w*\])?\+?=")
_DECLARING = {"export", "local", "readonly", "declare", "typeset"}
_ENVIRONMENT = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Names that the surroundings set: HOME, RANDOM, CUDA_VISIBLE_DEVICES."""


def check_script(text: str) -> list[Fault]:
    """The faults and notes of a shell script, by line. Nothing is run and no file is read but tokenizer settings."""
    commands, faults = read_script(text)
    commands, broken = _join(commands)
    faults += broken
    values: dict[str, str | None] = {}
    assigned_on: dict[str, int] = {}
    later = {name: word.line for command in commands for word, name in _assignments(command)}
    for command in commands:
        quoted = _quoted_block(command)
        if quoted is not None:
            faults.append(quoted)
            continue
        faults += _variables(command, assigned_on, later)
        faults += _spaced_assignment(command)
        for word, name in _assignments(command):
            value = word.expand(_known(values))
            values[name] = None if value is None else value.partition("=")[2]
            assigned_on[name] = word.line
        faults += _placeholders(command)
        faults += flag_faults(command, _known(values))
    return sorted(set(faults), key=lambda fault: (fault.line, fault.is_note, fault.text))


def _known(values: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """``values`` with $RANDOM, the one variable of the shell that the published scripts use."""
    return {"RANDOM": "1", **values}


def _join(commands: Sequence[Command]) -> tuple[list[Command], list[Fault]]:
    """Put commands together that a missing backslash, an empty line or a comment tore apart."""
    joined: list[Command] = []
    faults: list[Fault] = []
    for command in commands:
        first = command.words[0]
        before = joined[-1] if joined else None
        torn = before is not None and before.ended_by != "operator" and not _only_assigns(before)
        if before is None or not torn or not _goes_on(before, command):
            if _is_flag(first):
                faults.append(
                    Fault(first.line, first.text, "is run as a command of its own: no command stands above it")
                )
            joined.append(command)
            continue
        last = before.words[-1].text
        following = " ".join(word.text for word in command.words[:2])
        runs = f"the command ends here, and {first.text!r} below is run as a command of its own"
        if before.ended_by == "comment":
            fault = Fault(
                before.end, "# ...", f"a comment stands inside the command: {runs}", "move it above the command"
            )
        elif before.ended_by == "blank line":
            fault = Fault(
                before.end,
                "(empty line)",
                f"an empty line ends the command, and {first.text!r} below is run as a command of its own",
                f"delete the line if {following} belongs to the command",
            )
        else:
            comma = " and no space after the comma" if last.endswith(",") else ""
            fault = Fault(before.end, last, f"no backslash ends the line: {runs}", f"write {last} \\{comma}")
        if last.endswith(","):
            fault = replace(fault, mend=f"write {last}{first.text} in one word")
        faults.append(fault)
        joined[-1] = Command([*before.words, *command.words], command.end, command.ended_by)
    return joined, faults


def _goes_on(before: Command, command: Command) -> bool:
    """Whether ``command`` was meant as a part of the one above it."""
    first = command.words[0]
    if _is_flag(first):
        return True
    launched = _base(_without_prefixes(before.words)[:1]) in _LAUNCHERS
    if not launched:
        return False
    has_script = any(word.text.endswith(".py") for word in before.words)
    return (first.text.endswith(".py") and not has_script) or before.words[-1].text.endswith(",")


def _is_flag(word: Word) -> bool:
    return not word.quoted and re.match(r"--?[A-Za-z]", word.text) is not None


def _base(words: Sequence[Word]) -> str:
    return PurePath(words[0].text).name if words else ""


def _without_prefixes(words: Sequence[Word]) -> Sequence[Word]:
    """``words`` without ``NAME=value`` and ``nohup`` in front of the command."""
    index = 0
    while index < len(words) and (_ASSIGNMENT.match(words[index].raw_start) or words[index].text in _PREFIXES):
        index += 1
    return words[index:]


def _only_assigns(command: Command) -> bool:
    return all(_ASSIGNMENT.match(word.raw_start) for word in command.words)


def _assignments(command: Command) -> Iterable[tuple[Word, str]]:
    """Words that give a variable its value, with the variable's name."""
    words = command.words
    if words[0].text == "for" and len(words) > 1:
        yield Word(words[1].line, ["="]), words[1].text
    elif words[0].text == "read":
        yield from ((Word(word.line, ["="]), word.text) for word in words[1:] if not word.text.startswith("-"))
    declaring = words[0].text in _DECLARING
    for word in words[1:] if declaring else words:
        match = _ASSIGNMENT.match(word.raw_start)
        if match:
            yield word, match[1]
        elif not declaring:
            return


def _spaced_assignment(command: Command) -> list[Fault]:
    """``name = value``, which the shell takes for a command called name."""
    first, *rest = command.words
    if not rest or not re.fullmatch(r"[A-Za-z_]\w*", first.raw_start) or not rest[0].text.startswith("="):
        return []
    value = rest[0].text[1:] or (rest[1].text if len(rest) > 1 else "")
    why = "spaces around = make the name a command"
    return [Fault(first.line, f"{first.text} {rest[0].text}", why, f"write {first.text}={value}")]


def _quoted_block(command: Command) -> Fault | None:
    """Text in quotes where a command should stand, meant as a comment."""
    first = command.words[0]
    if not first.quoted or first.raw_start or not ("\n" in first.text or "--" in first.text):
        return None
    start = next((line for line in first.text.splitlines() if line.strip()), "").strip()
    return Fault(
        first.line,
        f"'''{start} ...",
        "quotes make no comment: the shell runs the quoted text as a command after the one above",
        "delete the block, or put # in front of each of its lines",
    )


def _variables(command: Command, assigned_on: Mapping[str, int], later: Mapping[str, int]) -> list[Fault]:
    """Variables that have no value where they are used."""
    faults = []
    own = {name for _, name in _assignments(command)} if not _only_assigns(command) else set()
    for word in command.words:
        for name, optional, line in word.variables:
            if optional or name in assigned_on or name in own or _ENVIRONMENT.fullmatch(name):
                continue
            why = "is not set, so nothing stands there"
            match = nearest(name, assigned_on)
            if name in later:
                mend = f"it is set only on line {later[name]}: move that line up"
            elif match:
                mend = f"line {assigned_on[match]} sets {match}: make the two names agree"
            else:
                mend = f"set it above: {name}=..."
            faults.append(Fault(line, f"${{{name}}}", why, mend))
    return faults


def _placeholders(command: Command) -> list[Fault]:
    """Values of a published script that stand for one's own."""
    faults = []
    for word in command.words:
        literal = "".join(part for part in word.parts if isinstance(part, str))
        value = literal.partition("=")[2] if _ASSIGNMENT.match(word.raw_start) else literal
        if any(PLACEHOLDERS.search(part) for part in value.split(",")):
            faults.append(Fault(word.line, value, "is the placeholder of a published script", "write your own path"))
    return faults
