"""The flags in a launch script, checked against the verb or the entry point that the script starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hanlin.config.adapter import LORA_FLAGS
from hanlin.config.export import ExportConfig
from hanlin.config.infer import ChatConfig, InferConfig
from hanlin.config.merge import MergeConfig
from hanlin.config.models import ModelsConfig
from hanlin.config.older import ENTRY_POINTS, MergeTokenizers, translate
from hanlin.config.parse import Names, Parsed, names_of, parse, take_flag
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.config.shell import Command, Fault, Word
from hanlin.config.templates import TemplatesConfig, TemplateShowConfig
from hanlin.config.tokenizer import TokenizerExtend, TokenizerReport, TokenizerTrain
from hanlin.errors import UserError, nearest

SETTINGS: Mapping[str, type[Any]] = {
    "pt": PtConfig,
    "sft": SftConfig,
    "merge": MergeConfig,
    "export": ExportConfig,
    "chat": ChatConfig,
    "infer": InferConfig,
    "tokenizer train": TokenizerTrain,
    "tokenizer extend": TokenizerExtend,
    "tokenizer report": TokenizerReport,
    "models": ModelsConfig,
    "templates": TemplatesConfig,
    "template show": TemplateShowConfig,
    "older merge_tokenizers": MergeTokenizers,
}
"""Settings of the verbs whose flags are checked."""

_OWN_FLAGS = {
    ("inference_hf.py", "infer"): frozenset({"with_prompt", "interactive"}),
    ("inference_hf.py", "chat"): frozenset({"with_prompt", "interactive", "data_file", "predictions_file"}),
}
"""Flags that an entry point takes besides those of its verb."""


@dataclass(frozen=True, slots=True)
class _Tool:
    """A command line of ours inside a script."""

    cls: type[Any]
    words: list[Word]
    own_flags: frozenset[str]
    read: Callable[[list[str]], object]
    """Reads the whole command line; raises UserError."""


def flag_faults(command: Command, values: Mapping[str, str | None]) -> list[Fault]:
    """Faults and notes of the flags in ``command``; ``values`` are those of the shell's variables."""
    tool, faults = _find_tool(command)
    if tool is None:
        return faults
    names = names_of(tool.cls)
    groups = _groups(tool.words)
    given: dict[str, Word] = {}
    for flag, words in groups:
        name = flag.text[2:].partition("=")[0].replace("-", "_")
        alias = names.alias(name) if name not in names.flags else None
        given[alias.name if alias else name] = flag
        if name not in tool.own_flags:
            faults += _one_flag(flag, words, name, names, values)
    both = [given[name].text for name in LORA_FLAGS if name in given]
    if "adapter" in given and both and {*LORA_FLAGS} <= names.flags.keys() and "on_lora_flags" not in given:
        faults.append(
            Fault(
                given["adapter"].line,
                given["adapter"].text,
                f"an adapter is continued with its own settings, but {', '.join(both)} are given too",
                "delete those lines to continue the adapter, or this line to train a new one",
            )
        )
    elif not any(not fault.is_note for fault in faults):
        faults += _whole(command, tool, given, values)
    return faults


def _find_tool(command: Command) -> tuple[_Tool | None, list[Fault]]:
    """The entry point or verb that a command starts, with the words after it."""
    for index, word in enumerate(command.words):
        base = PurePath(word.text).name
        if base == "hanlin":
            for length in (2, 1):
                verb = " ".join(other.text for other in command.words[index + 1 : index + 1 + length])
                if verb in SETTINGS:
                    cls = SETTINGS[verb]
                    rest = command.words[index + 1 + length :]
                    return _Tool(cls, rest, frozenset(), functools.partial(parse, cls)), []
        if base in ENTRY_POINTS:
            return _entry_point(base, command.words[index + 1 :]), []
        match = nearest(base, ENTRY_POINTS) if base.endswith(".py") and index > 0 else None
        if match and _alike(base, match):
            fault = Fault(word.line, base, "is not the name of a published script", f"did you mean {match}?")
            return _entry_point(match, command.words[index + 1 :]), [fault]
    return None, []


def _alike(name: str, known: str) -> bool:
    """A slip of the finger or a sibling of the same script, and not merely another script."""
    return abs(len(name) - len(known)) <= 8 and nearest(name[-20:], [known[-20:]]) is not None


def _entry_point(entry: str, words: list[Word]) -> _Tool:
    def read(argv: list[str]) -> object:
        call = translate(entry, argv)
        return parse(SETTINGS[call.verb], call.argv, call.defaults)

    is_chat = any(word.text == "--interactive" for word in words)
    verb = "chat" if is_chat else translate(entry, []).verb
    return _Tool(SETTINGS[verb], words, _OWN_FLAGS.get((entry, verb), frozenset()), read)


def _groups(words: Sequence[Word]) -> list[tuple[Word, list[Word]]]:
    """Flags with the words that follow them."""
    groups: list[tuple[Word, list[Word]]] = []
    for word in words:
        if word.text.startswith("--") and not (word.quoted and " " in word.text):
            groups.append((word, []))
        elif groups:
            groups[-1][1].append(word)
    return groups


def _one_flag(
    flag: Word, words: Sequence[Word], name: str, names: Names, values: Mapping[str, str | None]
) -> list[Fault]:
    """What is wrong with one flag and its value, as far as the script tells the value."""
    expanded = [word.expand(values) for word in words]
    if "=" in flag.text:
        expanded.insert(0, (flag.expand(values) or "").partition("=")[2] or None)
    given = [value for value in expanded if value is not None]
    parsed = Parsed()
    if len(given) == len(expanded):
        try:
            take_flag(name, given, names, parsed)
        except UserError as error:
            return [_from_error(error, flag.line, " ".join([flag.text, *(word.text for word in words)]))]
    elif not names.takes(name):
        match = nearest(name, names.known())
        return [Fault(flag.line, flag.text, "is not a flag here", f"did you mean --{match}?" if match else "")]
    return [Fault(flag.line, flag.text, notice.partition(": ")[2] or notice, is_note=True) for notice in parsed.notices]


def _whole(command: Command, tool: _Tool, given: Mapping[str, Word], values: Mapping[str, str | None]) -> list[Fault]:
    """What only the whole command line shows: a missing flag, two that exclude each other."""
    argv = [word.expand(values) for word in tool.words]
    known = [word for word in argv if word is not None]
    if len(known) < len(argv):
        return []
    try:
        tool.read(known)
    except UserError as error:
        name = error.place.lstrip("-")
        flag = given.get(name)
        return [_from_error(error, flag.line if flag else command.line, flag.text if flag else error.place)]
    return []


def _from_error(error: UserError, line: int, text: str) -> Fault:
    problem = " ".join(error.problem.split())
    why = f"{problem}; expected {error.expected}" if error.expected else problem
    return Fault(line, text, why, error.mend)
