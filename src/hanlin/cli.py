"""``hanlin VERB ...``: names of verbs, their settings and what runs them. A verb is imported when it is called."""

from __future__ import annotations

import errno
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from hanlin import __version__
from hanlin.errors import EXIT_USER_ERROR, UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: ``module:class`` of its settings and ``module:function`` that runs it."""

    config: str
    command: str
    summary: str


VERBS: dict[str, Verb] = {
    "demo": Verb("hanlin.config.demo:DemoConfig", "hanlin.commands.demo:run", "the whole pipeline on a tiny model"),
    "tokenizer train": Verb(
        "hanlin.config.tokenizer:TokenizerTrain",
        "hanlin.commands.tokenizer:train",
        "train a tokenizer on a corpus",
    ),
    "tokenizer extend": Verb(
        "hanlin.config.tokenizer:TokenizerExtend",
        "hanlin.commands.tokenizer:extend",
        "add pieces to a tokenizer",
    ),
    "tokenizer report": Verb(
        "hanlin.config.tokenizer:TokenizerReport",
        "hanlin.commands.tokenizer:report",
        "measure a tokenizer on text",
    ),
    "pt": Verb("hanlin.config.runs:PtConfig", "hanlin.commands.pt:run", "continue pre-training on text"),
    "sft": Verb("hanlin.config.runs:SftConfig", "hanlin.commands.sft:run", "tune on instructions"),
    "merge": Verb("hanlin.config.merge:MergeConfig", "hanlin.commands.merge:run", "merge adapters into a model"),
    "chat": Verb("hanlin.config.infer:ChatConfig", "hanlin.commands.chat:run", "talk to a model in the terminal"),
    "infer": Verb("hanlin.config.infer:InferConfig", "hanlin.commands.infer:run", "answer a file of prompts"),
    "script check": Verb(
        "hanlin.config.script:ScriptConfig",
        "hanlin.commands.script:check",
        "find the mistakes of a shell script",
    ),
}


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _find_verb(argv: list[str]) -> tuple[str, list[str]]:
    """Name of the verb that ``argv`` begins with, and the rest. Raises UserError."""
    for length in (2, 1):
        name = " ".join(argv[:length])
        if name in VERBS:
            return name, argv[length:]
    families = sorted(name for name in VERBS if name.split()[0] == argv[0])
    if families:
        what = f"has no {argv[1]!r}" if len(argv) > 1 and not argv[1].startswith("-") else "needs a second word"
        raise UserError(f"hanlin {argv[0]}", what, expected=" or ".join(families))
    raise UserError(f"hanlin {argv[0]}", "is not a verb", expected=", ".join(VERBS), mend=did_you_mean(argv[0], VERBS))


def run(argv: list[str]) -> int:
    """Run one command line (without the program's name); returns the exit status. Raises UserError."""
    from hanlin.config.help import overview, verb_help

    family = [name for name in VERBS if argv and name.split()[0] == argv[0]]
    wants_help = bool({"-h", "--help"} & set(argv))
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview({name: verb.summary for name, verb in VERBS.items()}))
        return 0
    if argv[0] in ("--version", "version"):
        print(f"hanlin {__version__}")
        return 0
    if wants_help and argv[0] not in VERBS and (len(argv) == 1 or " ".join(argv[:2]) not in VERBS) and family:
        print(overview({name: VERBS[name].summary for name in family}))
        return 0
    name, rest = _find_verb(argv)
    verb = VERBS[name]
    config_class = _load(verb.config)
    if wants_help:
        print(verb_help(name, verb.summary, config_class))
        return 0
    from hanlin.config.parse import parse

    config, notices = parse(config_class, rest)
    for notice in notices:
        print(notice, file=sys.stderr)
    status = _load(verb.command)(config)
    return int(status or 0)


def main(argv: list[str]) -> int:
    """As ``run``, with a user's mistakes printed as one line and exit status 2."""
    try:
        return run(argv)
    except UserError as error:
        print(f"hanlin: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("hanlin: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        # A disk that fills up is the user's to mend wherever it strikes; what was written before stays whole.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(
                f"hanlin: {error.filename or 'disk'}: no space left; free some and start again",
                file=sys.stderr,
            )
            return EXIT_USER_ERROR
        raise


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
