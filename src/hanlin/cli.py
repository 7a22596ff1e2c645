"""``hanlin VERB ...``: names of verbs, their settings and what runs them. A verb is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hanlin import __version__
from hanlin.errors import EXIT_USER_ERROR, UserError, did_you_mean
from hanlin.files import write_failure


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
    "export": Verb(
        "hanlin.config.export:ExportConfig", "hanlin.commands.export:run", "write a model in another format"
    ),
    "chat": Verb("hanlin.config.infer:ChatConfig", "hanlin.commands.chat:run", "talk to a model in the terminal"),
    "infer": Verb("hanlin.config.infer:InferConfig", "hanlin.commands.infer:run", "answer a file of prompts"),
    "models": Verb("hanlin.config.models:ModelsConfig", "hanlin.commands.models:run", "list and search known models"),
    "templates": Verb(
        "hanlin.config.templates:TemplatesConfig", "hanlin.commands.templates:show_all", "list the prompt templates"
    ),
    "template show": Verb(
        "hanlin.config.templates:TemplateShowConfig",
        "hanlin.commands.templates:show",
        "show how a template turns a row into tokens",
    ),
    "script check": Verb(
        "hanlin.config.script:ScriptConfig",
        "hanlin.commands.script:check",
        "find the mistakes of a shell script",
    ),
}

OLDER_VERBS: dict[str, Verb] = {
    "older merge_tokenizers": Verb(
        "hanlin.config.older:MergeTokenizers",
        "hanlin.commands.older:merge_tokenizers",
        "extend a LLaMA tokenizer as merge_tokenizers.py did",
    ),
}
"""What only an entry point of 2023 does; reached through ``older`` alone."""


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


def run(argv: list[str], *, older: str | None = None) -> int:
    """Run one command line (without the program's name); returns the exit status. Raises UserError.

    ``older`` is the file name of an entry point of 2023 (``run_clm_pt_with_peft.py``): ``argv`` then has no verb, and
    the published defaults of that entry point hold.
    """
    from hanlin.config.help import overview, verb_help

    wants_help = bool({"-h", "--help"} & set(argv))
    if older is not None:
        return _run_older(older, [word for word in argv if word not in ("-h", "--help")], wants_help)
    family = [name for name in VERBS if argv and name.split()[0] == argv[0]]
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
    if wants_help:
        print(verb_help(name, verb.summary, _load(verb.config)))
        return 0
    return _call(verb, rest)


def _run_older(entry_point: str, argv: list[str], wants_help: bool) -> int:
    """A command line of 2023: its own defaults and answers, then the verb of today."""
    from hanlin.config.help import verb_help
    from hanlin.config.older import translate

    if wants_help:
        call = translate(entry_point, [])
        verb = {**VERBS, **OLDER_VERBS}[call.verb]
        print(f"{entry_point} is hanlin {call.verb} with the published defaults of 2023:")
        print("  " + " ".join(f"--{name} {_shown(value)}" for name, value in call.defaults({}).items()))
        print(verb_help(call.verb, verb.summary, _load(verb.config)))
        return 0
    call = translate(entry_point, argv)
    return _call({**VERBS, **OLDER_VERBS}[call.verb], call.argv, call.defaults, call.notices)


def _shown(value: Any) -> str:
    return ",".join(value) or "none" if isinstance(value, tuple) else str(value).lower()


def _call(verb: Verb, argv: list[str], defaults: Any = None, notices: Sequence[str] = ()) -> int:
    """Parse, say what the user should know, and run."""
    from hanlin.config.environment import read_processes
    from hanlin.config.parse import as_typed, parse

    settings = _load(verb.config)
    config, found = parse(settings, argv, defaults)
    if read_processes().is_main:
        for notice in (*notices, *found):
            print(notice, file=sys.stderr)
    try:
        _load("hanlin.commands.named:check_model_type")(config)
        return int(_load(verb.command)(config) or 0)
    except UserError as error:
        raise as_typed(error, settings, argv) from error


def main(argv: list[str], *, older: str | None = None) -> int:
    """As ``run``, with a user's mistakes printed as one line and exit status 2."""
    try:
        return run(argv, older=older)
    except UserError as error:
        print(f"hanlin: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("hanlin: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        # A disk that fills up is the user's to mend wherever it strikes; what was written before stays whole. Some
        # libraries tell of it by words alone.
        if "no space left" in (write_failure(error) or "").lower():
            place = getattr(error, "filename", None) or "disk"
            print(f"hanlin: {place}: no space left; free some and start again", file=sys.stderr)
            return EXIT_USER_ERROR
        raise


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
