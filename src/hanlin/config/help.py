"""Text of ``--help``: drawn from the configuration dataclasses, without any import of torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from hanlin.config.fields import HIDDEN, Flag, flags

_WIDTH = 110
_INDENT = 30


def overview(verbs: Mapping[str, str]) -> str:
    """The list of verbs."""
    lines = ["hanlin VERB [--flag value ...]", ""]
    lines += [f"  {name:<18} {summary}" for name, summary in verbs.items()]
    lines += [
        "",
        "hanlin VERB --help lists the flags of a verb. Settings may also stand in a file: --config run.yaml",
    ]
    return "\n".join(lines)


def verb_help(name: str, summary: str, cls: type[Any]) -> str:
    """All flags of one verb by section, with type, default and meaning."""
    takes = [taker for taker in getattr(cls, "positional", ()) if taker != "config"]
    usage = " ".join(["hanlin", name, *(f"[{taker.upper()}]" for taker in takes), "[--flag value ...]"])
    lines = [usage, "", f"{summary[0].upper()}{summary[1:]}."]
    section = ""
    for flag in flags(cls).values():
        if flag.section != section:
            section = flag.section
            lines += ["", section.removesuffix("Config") + ":"]
        lines += _entry(flag)
    if "trainer" in HIDDEN & set(cls.__dataclass_fields__):
        lines += ["", "Any other field of transformers' TrainingArguments is accepted and passed through."]
    return "\n".join(lines)


def _entry(flag: Flag) -> list[str]:
    kind = {"choice": "|".join(flag.choices), "list": "A,B"}.get(flag.kind, flag.kind.upper())
    head = f"  --{flag.name} {kind}" if flag.kind != "bool" else f"  --{flag.name}"
    text = flag.help
    if flag.required:
        text += " (required)"
    elif flag.default not in (None, (), ""):
        shown = ",".join(flag.default) if isinstance(flag.default, tuple) else str(flag.default)
        text += f" [{shown}]"
    body = textwrap.wrap(text, _WIDTH - _INDENT) or [""]
    if len(head) < _INDENT:
        return [head.ljust(_INDENT) + body[0], *(" " * _INDENT + line for line in body[1:])]
    return [head, *(" " * _INDENT + line for line in body)]
