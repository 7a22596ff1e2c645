"""Command line and YAML to a configuration. Flags win over the file; both ``--flag`` and ``--flag true`` are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.aliases import ALIASES, REFUSED, RETIRED, Alias, Refused
from hanlin.config.fields import HIDDEN, Flag, build, flags
from hanlin.config.passthrough import trainer_fields, trainer_value
from hanlin.config.values import from_value, from_words
from hanlin.config.words import check_flag, check_words
from hanlin.errors import UserError, did_you_mean, nearest


@dataclass(slots=True)
class Parsed:
    """What was found so far: values by canonical name, trainer fields, and lines the user should see."""

    values: dict[str, Any] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


Defaults = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the settings that were named to those that an older entry point sets otherwise than the verb."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names that a verb answers to."""

    flags: Mapping[str, Flag]
    passthrough: bool
    extra: frozenset[str]

    def known(self) -> set[str]:
        """Every spelling, for prefixes and for the nearest name."""
        aliases = {old for old, news in ALIASES.items() if any(new.name in self.flags for new in news)}
        passed = set(trainer_fields()) if self.passthrough else set()
        return set(self.flags) | aliases | passed | self.extra

    def alias(self, name: str) -> Alias | None:
        """What an older spelling means for this verb, or None."""
        return next((alias for alias in ALIASES.get(name, ()) if self._has(alias.name)), None)

    def takes(self, name: str) -> bool:
        """Whether ``--name`` means something, be it an older spelling or the one beginning of one name."""
        if name in self.known() or name in RETIRED or self.refused(name):
            return True
        try:
            return bool(_unabbreviated(name, self))
        except UserError:
            return False

    def refused(self, name: str) -> Refused | None:
        """Why this verb does not do what a flag asks for, or None."""
        found = REFUSED.get(name)
        return found if found is not None and (not found.beside or found.beside in self.flags) else None

    def _has(self, name: str) -> bool:
        return name in self.flags or (self.passthrough and name in trainer_fields())


def names_of(cls: type[Any]) -> Names:
    """The names that the verb with the settings ``cls`` answers to."""
    return Names(flags(cls), "trainer" in _hidden(cls), frozenset({"config"}))


def parse(cls: type[Any], argv: list[str], defaults: Defaults | None = None) -> tuple[Any, list[str]]:
    """Read ``argv`` (without verb) into ``cls``; returns the configuration and the notices. Raises UserError.

    ``defaults`` gives settings for what was not named; they do not count as given.
    """
    names = names_of(cls)
    positional, pairs = split(argv)
    parsed = Parsed()
    config_file = _take_positional(cls, positional, pairs, names)
    for path in config_file:
        _read_yaml(path, names, parsed)
    for name, words in pairs:
        take_flag(name, words, names, parsed)
    given = frozenset(parsed.values)
    values = {**(defaults(parsed.values) if defaults else {}), **parsed.values}
    return build(cls, values, given=given, trainer=parsed.trainer), parsed.notices


def as_typed(error: UserError, cls: type[Any], argv: list[str]) -> UserError:
    """``error`` at the flag as ``argv`` spells it, where that is an older name of the one it speaks of."""
    names = names_of(cls)
    for typed, _ in split(argv)[1]:
        alias = names.alias(typed)
        if alias is not None and alias.name != typed and error.place == f"--{alias.name}":
            place = f"--{typed} (--{alias.name})"
            return UserError(place, error.problem, expected=error.expected, mend=error.mend)
    return error


def _hidden(cls: type[Any]) -> set[str]:
    return HIDDEN & set(getattr(cls, "__dataclass_fields__", {}))


def split(argv: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Positional words before the first flag, then (flag, words) pairs. ``--a=b`` is ``--a b``."""
    positional: list[str] = []
    pairs: list[tuple[str, list[str]]] = []
    for word in argv:
        check_flag(word)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            pairs.append((name.replace("-", "_"), [value] if equals else []))
        elif pairs:
            pairs[-1][1].append(word)
        elif not word.strip():
            raise UserError("command line", "holds an argument of white space only", mend="delete it")
        else:
            positional.append(word)
    return positional, pairs


def _take_positional(
    cls: type[Any], positional: list[str], pairs: list[tuple[str, list[str]]], names: Names
) -> list[str]:
    """Give positional words to the fields that take them; returns the configuration files."""
    takers: tuple[str, ...] = getattr(cls, "positional", ())
    if len(positional) == 1 and positional[0].endswith((".json", ".yaml", ".yml")) and "config" in takers:
        # The older tools read one positional argument ending in .json as a file with all arguments.
        pairs[:] = [("config", positional), *pairs]
    elif positional and not takers:
        raise UserError(positional[0], "is not expected here", expected="flags that begin with --")
    elif positional:
        index = 0
        for index, word in enumerate(positional):
            taker = takers[min(index, len(takers) - 1)]
            if taker == "config":
                raise UserError(word, "is not expected here", expected="a .yaml file, or flags that begin with --")
            if index >= len(takers) and names.flags[taker].kind != "list":
                raise UserError(
                    word, "is not expected here", mend="give a text with spaces in quotes; delete stray words"
                )
        words_of: dict[str, list[str]] = {}
        for index, word in enumerate(positional):
            words_of.setdefault(takers[min(index, len(takers) - 1)], []).append(word)
        pairs[:0] = list(words_of.items())
    files = [words for name, words in pairs if name == "config"]
    pairs[:] = [(name, words) for name, words in pairs if name != "config"]
    if any(len(words) != 1 for words in files):
        raise UserError("--config", "takes one file")
    return [words[0] for words in files]


def _read_yaml(path: str, names: Names, parsed: Parsed) -> None:
    """Take every setting of a YAML (or JSON) file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(path, "does not exist", expected="a YAML file of settings") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise UserError(place, f"is not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise UserError(path, "holds no settings", expected="lines of the form name: value")
    for key, value in content.items():
        name = str(key).replace("-", "_")
        place = f"{path}: {key}"
        alias = names.alias(name)
        if name not in names.flags and alias is not None:
            name, value = alias.name, alias.value([str(value)])[0] if alias.value else value
        if name in names.flags:
            parsed.values[name] = from_value(names.flags[name], value, place)
        elif name == "trainer" and isinstance(value, dict) and names.passthrough:
            parsed.trainer.update(_known_trainer_fields(value, place))
        elif (refused := names.refused(name)) is not None:
            refused.check(place, [str(value)])
        elif names.passthrough and name in trainer_fields():
            parsed.trainer[name] = value
        elif name in RETIRED:
            parsed.notices.append(f"{place}: {RETIRED[name]}")
        else:
            raise UserError(place, "is not a setting of this verb", mend=did_you_mean(name, names.known()))


def _known_trainer_fields(values: dict[str, Any], place: str) -> dict[str, Any]:
    for name, value in values.items():
        if name in REFUSED:
            REFUSED[name].check(f"{place}.{name}", [str(value)])
        if name not in trainer_fields():
            raise UserError(
                f"{place}.{name}", "is not a field of the trainer", mend=did_you_mean(name, trainer_fields())
            )
    return values


def take_flag(name: str, words: list[str], names: Names, parsed: Parsed) -> None:
    """Take one ``--name words``: as itself, an older spelling, a trainer field, or a prefix of one of them."""
    spelled = name
    alias = None
    check_words(name, words)
    if name not in names.flags:
        alias = names.alias(name)
        if alias is None and name not in RETIRED and not names.refused(name) and name not in names.known():
            name = _unabbreviated(name, names)
            alias = names.alias(name) if name not in names.flags else None
    if alias is not None:
        words = alias.value(words) if alias.value else words
        name = alias.name
        if alias.notice:
            parsed.notices.append(f"--{spelled}: {alias.notice}")
    if name in names.flags:
        value = from_words(names.flags[name], words, place=f"--{spelled}")
        if parsed.spelled.get(name, spelled) != spelled and parsed.values[name] != value:
            raise UserError(
                f"--{spelled}",
                f"and --{parsed.spelled[name]} are two names of one setting and differ",
                mend="keep one of them",
            )
        parsed.spelled[name] = spelled
        parsed.values[name] = value
    elif (refused := names.refused(name)) is not None:
        refused.check(f"--{name}", words)
    elif names.passthrough and name in trainer_fields():
        parsed.trainer[name] = trainer_value(name, words)
    elif name in RETIRED:
        parsed.notices.append(f"--{name}: {RETIRED[name]}")
    else:
        raise _unknown(name, names)


def _unabbreviated(name: str, names: Names) -> str:
    """The one name that begins with ``name`` (argparse's abbreviation, which the older tools allowed)."""
    candidates = {known for known in names.known() if known.startswith(name)} if len(name) > 3 else set()
    targets = {alias.name if (alias := names.alias(known)) else known for known in candidates}
    if len(targets) == 1:
        return min(candidates, key=len)
    if len(targets) > 1:
        raise UserError(f"--{name}", f"is short for several flags: {', '.join(sorted(candidates)[:6])}")
    raise _unknown(name, names)


def _unknown(name: str, names: Names) -> UserError:
    match = nearest(name, names.known() | RETIRED.keys())
    mend = f"did you mean --{match}?" if match else "see --help for the flags of this verb"
    return UserError(f"--{name}", "is not a flag of this verb", mend=mend)
