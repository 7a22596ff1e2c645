"""The form of a named template: plain text with a few slots, so that a template is data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hanlin.errors import UserError
from hanlin.registry import Registry

_NAMES = "bos|eos|system|user|round|tools|tool|function|name|arguments|result|results"
SLOT = re.compile(rf"\{{(?:({_NAMES})|id:(\d+)(?: ([^{{}}]+))?)\}}")
"""What stands for something else in the text of a template; any other brace is itself."""

_MAY_HOLD: dict[str, set[str]] = {
    "header": {"system"},
    "bare_header": set(),
    "prompt": {"user", "round"},
    "last_prompt": {"user", "round", "system"},
    "empty_thought": set(),
    "suffix": set(),
    "inner_suffix": set(),
    "separator": set(),
}
"""Slots of each part, besides the tokens {bos}, {eos} and {id:N}, which may stand everywhere."""

_TOOLS_MAY_HOLD: dict[str, set[str]] = {
    "header": {"system", "tools"},
    "bare_header": {"tools"},
    "first_prompt": {"user", "round", "tools"},
    "prompt": {"user", "round"},
    "tool": {"tool", "function", "name"},
    "lead": set(),
    "before_calls": set(),
    "call": {"name", "arguments"},
    "between_calls": set(),
    "call_suffix": set(),
    "result": {"result"},
    "between_results": set(),
    "results": {"results"},
}
_TOOLS_MUST_HOLD = {"call": ("name", "arguments"), "result": ("result",), "results": ("results",)}
"""The same of the parts of a form of tools, and what must stand in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolForm:
    """How a template writes tools, calls of them and what they returned; parts with slots, as in ``Template``.

    A call is part of an answer and trained with it, its stop included. What a tool returned is read and not trained.
    JSON is written as Python's ``json.dumps`` does it without escaping letters, which is what chat templates print.
    """

    header: str | None = None
    """Takes the place of the template's ``header`` in a conversation that lists tools. ``{tools}`` is their list."""
    bare_header: str | None = None
    """The same for ``bare_header``."""
    first_prompt: str | None = None
    """Takes the place of ``prompt`` in the first turn of such a conversation; may hold ``{tools}`` too."""
    prompt: str | None = None
    """Takes the place of ``prompt`` in the other turns of such a conversation, and in the first without the above."""
    tool: str
    """One tool of the list: ``{tool}`` is the JSON of ``{"type": "function", "function": {…}}``, ``{function}`` that of
    the function alone, ``{name}`` its name."""
    indent: int | None = None
    """Spaces by which that JSON is indented; None writes it in one line."""
    lead: str = ""
    """What an answer of text begins with where tools are listed, trained: the prompt ends before it, as a call begins
    without it."""
    before_calls: str | None = None
    """Between the text of an answer and its calls. None: an answer has text or calls, not both."""
    call: str
    """One call: ``{name}`` of the function, ``{arguments}`` as JSON."""
    between_calls: str | None = None
    """Between the calls of an answer. None: one call at a time."""
    call_suffix: str | None = None
    """Closes an answer that ends with calls. None: the template's ``suffix``."""
    result: str
    """What one tool returned: ``{result}``."""
    between_results: str = ""
    """Between the results of several calls."""
    quoted_results: bool = False
    """Whether ``{result}`` is written as a JSON string."""
    results: str
    """All that the tools returned up to the place where the next answer starts: ``{results}`` with what is around."""

    def check(self, place: str) -> None:
        """Raises UserError at ``place`` for parts that do not fit together."""
        _check_slots(self, _TOOLS_MAY_HOLD, place)
        for part, names in _TOOLS_MUST_HOLD.items():
            missing = [f"{{{name}}}" for name in names if f"{{{name}}}" not in getattr(self, part)]
            if missing:
                raise UserError(place, f"{part} of tools has no {missing[0]}")
        if not any(slot in self.tool for slot in ("{tool}", "{function}")):
            raise UserError(place, "tool of tools says nothing of the tool", expected="{tool} or {function} in it")
        in_header = all("{tools}" in (part or "") for part in (self.header, self.bare_header))
        if in_header == ("{tools}" in (self.first_prompt or "")):
            raise UserError(
                place, "the list of tools needs one place", expected="{tools} in both headers or in first_prompt"
            )
        for part in ("first_prompt", "prompt"):
            if "{user}" not in (getattr(self, part) or "{user}"):
                raise UserError(place, f"{part} of tools has no place for the question", expected="{user} in it")


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
    last_prompt: str | None = None
    """Takes the place of ``prompt`` in the last turn when there is a system text, where that has its ``{system}`` there
    and not in ``header``. Answers before it are not trained then: they were written after another prompt."""
    empty_thought: str = ""
    """Stands between a prompt and the last answer, not trained: the thought of a model that can think and is asked not
    to. It stands nowhere else, so that the last answer alone is trained. Answers that hold one of its words are
    refused, as they bring a thought of their own."""
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
    tools: ToolForm | None = None
    """How it writes tools. None: it has no place for them."""

    def __post_init__(self) -> None:
        place = f"template {self.name}"
        _check_slots(self, _MAY_HOLD, place)
        if self.tools is not None:
            self.tools.check(place)
            if (self.tools.header is not None) and ("{system}" in self.tools.header) != ("{system}" in self.header):
                raise UserError(place, "header and the header of tools differ in their place for a system text")
        if "{user}" not in self.prompt:
            raise UserError(place, "prompt has no place for the question", expected="{user} in it")
        if ("{system}" in self.header) == (self.bare_header is None):
            raise UserError(
                place,
                "header and bare_header do not fit",
                expected="a bare_header exactly where header has a place for a {system} text",
            )
        if self.system and not self.has_system_slot:
            raise UserError(place, "has a system text and no place for it", expected="{system} in header")
        if self.last_prompt is not None and not all(
            slot in self.last_prompt and slot not in self.header for slot in ("{system}", "{user}")
        ):
            raise UserError(place, "last_prompt has no place of its own", expected="{system} and {user} in it alone")
        if not self.stops:
            raise UserError(
                place,
                "suffix holds no stop token, so that an answer would never end",
                expected="{eos}, {id:N} or one of its tokens in suffix",
            )

    @property
    def has_system_slot(self) -> bool:
        """Whether a system text has a place in this template."""
        return "{system}" in self.header or self.last_prompt is not None

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens of ``suffix`` and of the suffix of calls, as the template writes them, then the strings of
        ``stop``."""
        marks = marks_in(self.tokens)
        found = [match.group() for match in marks.finditer(self.suffix)]
        calls = marks.finditer((self.tools and self.tools.call_suffix) or "")
        return (*dict.fromkeys((*found, *(match.group() for match in calls))), *self.stop) if found else ()


def _check_slots(parts: Template | ToolForm, may_hold: dict[str, set[str]], place: str) -> None:
    for part, allowed in may_hold.items():
        wrong = {match[1] for match in SLOT.finditer(getattr(parts, part) or "")} - allowed - {"bos", "eos", None}
        if wrong:
            named = ", ".join(f"{{{name}}}" for name in sorted(wrong))
            raise UserError(place, f"{part} has {named}, which means nothing there")


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
