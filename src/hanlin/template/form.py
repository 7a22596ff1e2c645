"""The form of a named template: plain text with a few slots, so that a template is data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hanlin.errors import UserError
from hanlin.registry import Registry

SLOT = re.compile(r"\{(?:(bos|eos|system|user|round)|id:(\d+)(?: ([^{}]+))?)\}")
"""What stands for something else in the text of a template; any other brace is itself."""

_MAY_HOLD: dict[str, set[str]] = {
    "header": {"system"},
    "bare_header": set(),
    "prompt": {"user", "round"},
    "suffix": set(),
    "inner_suffix": set(),
    "separator": set(),
}
"""Slots of each part, besides the tokens {bos}, {eos} and {id:N}, which may stand everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a conversation is written: ``header``, then for each turn ``prompt``, the answer and ``suffix``.

    ``separator`` stands between the suffix of a turn and the prompt of the next. The model learns to write the answer
    and the suffix. In each part ``{bos}`` and ``{eos}`` stand for the tokens of whatever tokenizer is in use, and
    ``{id:64790 [gMASK]}`` for the token that is called ``[gMASK]``, or has the number 64790 where none is called so.
    """

    name: str
    family: str
    """Models that were trained with it."""
    source: str
    """Where the template comes from."""
    header: str = ""
    """Before the first turn. ``{system}`` is the system text; a header without it has no place for a system text."""
    bare_header: str | None = None
    """Takes the place of ``header`` when the system text is empty. None: ``header`` has no place for one."""
    prompt: str
    """One turn up to the place where the answer starts. ``{user}`` is the user's message, ``{round}`` its number, from
    1 on."""
    suffix: str
    """Closes the last answer; its special tokens are where generation stops."""
    inner_suffix: str | None = None
    """Closes the other answers. None: as ``suffix``. Some forms of 2023 write no stop token between turns."""
    separator: str | None = ""
    """Between the suffix of a turn and the prompt of the next. None: the template writes a single turn."""
    system: str = ""
    """System text of a conversation that brings none."""
    tokens: tuple[str, ...] = ()
    """Special tokens that the parts spell out; the tokenizer must have each as one token."""
    stop: tuple[str, ...] = ()
    """Strings at which generation stops too, besides the special tokens of ``suffix``."""
    also: tuple[str, ...] = ()
    """Other names of the template."""

    def __post_init__(self) -> None:
        place = f"template {self.name}"
        for part, allowed in _MAY_HOLD.items():
            wrong = {match[1] for match in SLOT.finditer(getattr(self, part) or "")} - allowed - {"bos", "eos", None}
            if wrong:
                named = ", ".join(f"{{{name}}}" for name in sorted(wrong))
                raise UserError(place, f"{part} has {named}, which means nothing there")
        if "{user}" not in self.prompt:
            raise UserError(place, "prompt has no place for the question", expected="{user} in it")
        if self.has_system_slot == (self.bare_header is None):
            raise UserError(
                place,
                "header and bare_header do not fit",
                expected="a bare_header exactly where header has a place for a {system} text",
            )
        if self.system and not self.has_system_slot:
            raise UserError(place, "has a system text and no place for it", expected="{system} in header")
        if not self.stops:
            raise UserError(
                place,
                "suffix holds no stop token, so that an answer would never end",
                expected="{eos}, {id:N} or one of its tokens in suffix",
            )

    @property
    def has_system_slot(self) -> bool:
        """Whether a system text has a place in this template."""
        return "{system}" in self.header

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens of ``suffix``, as the template writes them, then the strings of ``stop``."""
        found = [match.group() for match in marks_in(self.tokens).finditer(self.suffix)]
        return (*dict.fromkeys(found), *self.stop) if found else ()


def marks_in(tokens: Iterable[str]) -> re.Pattern[str]:
    """Finds the slots of a part and the special tokens that it spells out, of several the longest."""
    spelled = [re.escape(token) for token in sorted(set(tokens), key=len, reverse=True)]
    return re.compile("|".join([SLOT.pattern, *spelled]))


TEMPLATES: Registry[Template] = Registry("template")
"""Every named template, by its name."""

OTHER_NAMES: dict[str, str] = {}
"""Further names of templates, each with the name that is meant."""


def add_template(template: Template) -> None:
    """Make ``template`` known by its name and its other names; a name can be taken only once."""
    for name in template.also:
        if name in TEMPLATES or name in OTHER_NAMES:
            raise ValueError(f"template {name!r} is registered twice")
    if template.name in OTHER_NAMES:
        raise ValueError(f"template {template.name!r} is registered twice")
    TEMPLATES.add(template.name, template)
    OTHER_NAMES.update(dict.fromkeys(template.also, template.name))


def find_template(name: str, place: str) -> Template:
    """The template called ``name``, small and capital letters alike; raises UserError at ``place`` for none."""
    lowered = name.lower()
    known = OTHER_NAMES.get(lowered, lowered)
    return TEMPLATES[known] if known in TEMPLATES else TEMPLATES.get_named(name, place)
