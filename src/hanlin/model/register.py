"""A user's own entries of the model catalog, from files named with ``--register``.

YAML: a mapping with the fields of an entry, or a list of them. Python: ``MODELS``, a list of such mappings or of
``Entry``, or a function ``models()`` that gives one; the file is run because the user named it on the command line.
"""

from __future__ import annotations

import re
import runpy
import traceback
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from hanlin.errors import UserError, did_you_mean
from hanlin.model.catalog import CATALOG
from hanlin.model.entry import Entry

_HINTS = {field.name: typing.get_type_hints(Entry)[field.name] for field in fields(Entry)}
_OPTIONAL_FAMILY = "own"


def with_registered(files: Iterable[str]) -> Mapping[str, Entry]:
    """The catalog and the entries of ``files``. Raises UserError at file and line for an entry that cannot be taken."""
    catalog: dict[str, Entry] = dict(CATALOG)
    taken: dict[str, str] = {}
    for name in files:
        file = Path(name).expanduser()
        if file.suffix not in (".yaml", ".yml", ".py"):
            raise UserError(f"--register {name}", "is neither YAML nor Python", expected="a .yaml or .py file")
        if not file.is_file():
            raise UserError(f"--register {name}", "does not exist", expected="a .yaml or .py file with entries")
        entries = _from_python(file) if file.suffix == ".py" else _from_yaml(file)
        for place, entry in entries:
            if entry.id in catalog:
                by = taken.get(entry.id, "the catalog's own")
                raise UserError(place, f"id {entry.id!r} is taken ({by})", expected="an id of its own")
            _check_hub_ids(place, entry, catalog)
            catalog[entry.id] = entry
            taken[entry.id] = place
    return catalog


def _check_hub_ids(place: str, entry: Entry, catalog: Mapping[str, Entry]) -> None:
    """A hub id leads to one entry only."""
    own = {hub_id.lower() for hub_id in entry.hub_ids()}
    for other in catalog.values():
        common = own & {hub_id.lower() for hub_id in other.hub_ids()}
        if common:
            raise UserError(place, f"{common.pop()} belongs to the entry {other.id}", expected="a model without entry")


def make_entry(values: Mapping[str, Any], place: str, folder: Path) -> Entry:
    """An entry from plain values; ``path`` is relative to ``folder``. Raises UserError at ``place``."""
    taken: dict[str, Any] = {"family": _OPTIONAL_FAMILY}
    for name, value in values.items():
        if name not in _HINTS:
            raise UserError(place, f"an entry has no field {name!r}", mend=did_you_mean(str(name), _HINTS))
        taken[str(name)] = _typed(str(name), value, place)
    if not taken.get("id"):
        raise UserError(place, "the entry has no id", expected="id: a-name-of-your-own")
    if not any(taken.get(name) for name in ("path", "modelscope", "huggingface")):
        raise UserError(place, f"{taken['id']} says of no place", expected="modelscope, huggingface or path")
    if taken.get("path"):
        path = Path(taken["path"]).expanduser()
        taken["path"] = str(path if path.is_absolute() else folder / path)
    return Entry(**taken)


def _typed(name: str, value: Any, place: str) -> Any:
    """``value`` as the field wants it; one name may stand for a list of one."""
    hint = _HINTS[name]
    if hint == tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise UserError(place, f"{name} is {value!r}", expected="a list of names")
        if name == "ignore_file_pattern":
            for item in items:
                _check_pattern(item, place)
        return tuple(items)
    choices = [str(arg) for part in typing.get_args(hint) for arg in typing.get_args(part)]
    if value is None and type(None) in typing.get_args(hint):
        return None
    if choices and value not in choices:
        mend = did_you_mean(str(value), choices)
        raise UserError(place, f"{name} is {value!r}", expected=f"one of {', '.join(choices)}", mend=mend)
    if not isinstance(value, str):
        raise UserError(place, f"{name} is {value!r}", expected="a text")
    return value


def _check_pattern(pattern: str, place: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            place,
            f"ignore_file_pattern has {pattern!r}: {error}",
            expected="a regular expression over whole file names",
            mend=r"as .+\.bin",
        ) from error


def _from_yaml(file: Path) -> Iterable[tuple[str, Entry]]:
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise UserError(place, f"is not YAML: {getattr(error, 'problem', error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(file, f"cannot be read: {error}") from error
    nodes: list[yaml.Node] = root.value if isinstance(root, yaml.SequenceNode) else [root] if root else []
    if not nodes:
        raise UserError(file, "holds no entries", expected="one entry, or a list of them")
    for node in nodes:
        place = f"{file}:{node.start_mark.line + 1}"
        if not isinstance(node, yaml.MappingNode):
            raise UserError(place, "is no entry", expected="id: a-name, modelscope: owner/name, ...")
        yield place, _entry_of_node(node, file)


def _entry_of_node(node: yaml.MappingNode, file: Path) -> Entry:
    """Each field is checked at its own line before the whole is put together."""
    values: dict[str, Any] = {}
    for key, item in node.value:
        place = f"{file}:{key.start_mark.line + 1}"
        name = str(key.value)
        if name in values:
            raise UserError(place, f"{name} is given twice")
        if name not in _HINTS:
            raise UserError(place, f"an entry has no field {name!r}", mend=did_you_mean(name, _HINTS))
        values[name] = _typed(name, yaml.safe_load(yaml.serialize(item)), place)
    return make_entry(values, f"{file}:{node.start_mark.line + 1}", file.parent)


def _from_python(file: Path) -> Iterable[tuple[str, Entry]]:
    try:
        found = runpy.run_path(str(file))
        listed = found["MODELS"] if "MODELS" in found else found["models"]() if "models" in found else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a script of the user's may end itself, and no run ends in silence
        raise UserError(_place_in(file, error), f"{type(error).__name__}: {error}") from error
    if not isinstance(listed, list | tuple) or not listed:
        raise UserError(file, "gives no entries", expected="MODELS = [{...}], or def models() that returns such a list")
    for index, item in enumerate(listed):
        place = f"{file}[{index}]"
        if isinstance(item, Entry):
            yield place, item
        elif isinstance(item, Mapping):
            yield place, make_entry(item, place, file.parent)
        else:
            raise UserError(place, f"is {item!r}", expected="a mapping with the fields of an entry")


def _place_in(file: Path, error: BaseException) -> str:
    """The line of the user's file at which its code failed."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)
