"""From configuration dataclasses to a flat table of flags: name, type, default and help of each.

A verb's dataclass may be flat or may hold sections (fields that are dataclasses themselves, one per concern); the flags
of all sections share one namespace. The docstring under a field is its help text.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from hanlin.errors import UserError, did_you_mean

HIDDEN = {"given", "trainer"}
"""Fields that the parser fills itself: names of the flags that were given, and fields meant for the trainer."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a verb."""

    name: str
    kind: Literal["str", "int", "float", "bool", "choice", "list"]
    optional: bool
    default: Any
    required: bool
    choices: tuple[str, ...]
    help: str
    section: str


def _attribute_docs(cls: type) -> dict[str, str]:
    """Docstrings that stand directly under the fields of ``cls``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    docs: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        value = following.value if isinstance(following, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            docs[statement.target.id] = " ".join(value.value.split())
    return docs


def _kind(
    annotation: Any,
) -> tuple[Literal["str", "int", "float", "bool", "choice", "list"], bool, tuple[str, ...]]:
    """(kind, may be None, choices) of a field's annotation."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        kind, _, choices = _kind(inner[0])
        return kind, True, choices
    if get_origin(annotation) is Literal:
        return "choice", False, tuple(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list", False, ()
    if annotation in (str, int, float, bool):
        return typing.cast(Any, annotation.__name__), False, ()
    raise TypeError(f"a flag cannot have the type {annotation!r}")


def sections(cls: type) -> dict[str, type]:
    """Fields of ``cls`` that are dataclasses themselves."""
    hints = typing.get_type_hints(cls)
    return {
        item.name: hints[item.name] for item in dataclasses.fields(cls) if dataclasses.is_dataclass(hints[item.name])
    }


def flags(cls: type[Any]) -> Mapping[str, Flag]:
    """All flags of a verb's dataclass by name, sections in order of their fields."""
    return _flags(cls)  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _flags(cls: typing.Hashable) -> Mapping[str, Flag]:
    assert isinstance(cls, type)
    hints, docs, nested = typing.get_type_hints(cls), _attribute_docs(cls), sections(cls)
    found: dict[str, Flag] = {}
    for item in dataclasses.fields(cls):
        if item.name in HIDDEN:
            continue
        if item.name in nested:
            new = dict(flags(nested[item.name]))
        else:
            kind, optional, choices = _kind(hints[item.name])
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            default = None if required else item.default
            help_text = docs.get(item.name, "")
            new = {item.name: Flag(item.name, kind, optional, default, required, choices, help_text, cls.__name__)}
        clash = found.keys() & new.keys()
        assert not clash, f"{cls.__name__} defines {clash} twice"
        found.update(new)
    return found


def build(
    cls: type[Any],
    values: Mapping[str, Any] | None = None,
    /,
    *,
    given: frozenset[str] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **named: Any,
) -> Any:
    """Make ``cls`` from flat values; sections are filled by the names of their own flags.

    ``given`` are the flags that the user named (default: all in ``values``), ``trainer`` the fields passed through to
    the trainer. Raises UserError for unknown names and for required ones that are absent.
    """
    flat = {**(values or {}), **named}
    known = flags(cls)
    for name in flat:
        if name not in known:
            raise UserError(f"--{name}", "is not a setting here", mend=did_you_mean(name, known))
    return _build(cls, flat, frozenset(flat) if given is None else given, trainer or {})


def _build(cls: type[Any], flat: Mapping[str, Any], given: frozenset[str], trainer: Mapping[str, Any]) -> Any:
    nested = sections(cls)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.name in nested:
            arguments[item.name] = _build(nested[item.name], flat, given, trainer)
        elif item.name == "given":
            arguments["given"] = given
        elif item.name == "trainer":
            arguments["trainer"] = dict(trainer)
        elif item.name in flat:
            arguments[item.name] = flat[item.name]
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise UserError(f"--{item.name}", "is missing", expected="a value", mend=f"add --{item.name} VALUE")
    return cls(**arguments)


def flatten(config: Any) -> dict[str, Any]:
    """The flat settings of a configuration: the inverse of ``build``."""
    nested = sections(type(config))
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name in nested:
            flat.update(flatten(value))
        elif item.name not in HIDDEN:
            flat[item.name] = list(value) if isinstance(value, tuple) else value
    return flat
