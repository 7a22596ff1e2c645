"""What can be known before a weight is loaded: tokenizer, base and adapter by their headers, template, modes."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from hanlin.config.adapter import LORA_FLAGS
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.model.adapter_files import AdapterFiles, read_adapter
from hanlin.model.choose import Choice
from hanlin.model.entry import Entry
from hanlin.model.facts import BaseFacts, Facts, TokenizerFacts, read_base
from hanlin.model.hub import Access, local_tokenizer
from hanlin.model.identity import Record
from hanlin.model.load import choose_variant, find_checkpoint, load_config
from hanlin.model.native.adapters import native_adapter
from hanlin.model.preflight import check_modes
from hanlin.model.targets import expand_targets
from hanlin.template import CHAT_TEMPLATE, TEMPLATES, Renderer
from hanlin.template.published import PUBLISHED, published_template
from hanlin.tokens.encode import open_renderer
from hanlin.tokens.images import ImageSlots
from hanlin.train.conformance import check_stop, settle_template
from hanlin.vocab.tokenizer import TextTokenizer

DEFAULT_TEMPLATE = "default"
"""Template of catalog entries that name none and whose tokenizer brings none (specification 1.2)."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "qwen.tiktoken", "vocab.json")


@dataclass(frozen=True, slots=True)
class Start:
    """What a run starts from."""

    tokenizer: TextTokenizer
    base: BaseFacts | None
    """None when training from scratch."""
    base_tokenizer: TextTokenizer | None
    adapter: AdapterFiles | None
    renderer: Renderer | None
    """How conversations are written; None in pre-training."""
    date: str
    """Day of the run (ISO), which some templates write; a run that continues keeps its first."""
    stop: tuple[str, ...] = ()
    """Tokens at which answers end: those that this run teaches, in pre-training those that the base was taught."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Modules that a new adapter is put on, groups of names expanded where the base is known."""

    images: ImageSlots | None = None
    """How the base sees pictures; None for a text model."""

    @property
    def base_record(self) -> Record | None:
        """Where the base comes from, when hanlin made it."""
        return self.base.record if self.base else None

    @property
    def chain(self) -> tuple[str, ...]:
        """Adapters that are merged into the base."""
        return self.base_record.chain if self.base_record else ()

    @property
    def inherited_template(self) -> str | None:
        """Template of the base, which pre-training leaves as it was."""
        record = self.adapter.record if self.adapter and self.adapter.record else self.base_record
        return record.template if record else None

    @property
    def inherited_system(self) -> str | None:
        """System text of the base's template."""
        record = self.adapter.record if self.adapter and self.adapter.record else self.base_record
        return record.system if record else None

    @property
    def template_source(self) -> str:
        """Text that defines the template: its data, or the tokenizer's own Jinja source."""
        assert self.renderer is not None, "pre-training has no template"
        if self.renderer.name == CHAT_TEMPLATE:
            return self.tokenizer.chat_template or ""
        return repr(TEMPLATES[self.renderer.name])


def open_start(
    verb: Literal["pt", "sft"],
    config: PtConfig | SftConfig,
    choice: Choice,
    console: Console,
    *,
    date: str | None = None,
) -> Start:
    """Read headers, tokenizers and records and check that they fit one another; ``config`` is that of ``choice``.

    ``date`` is the day on which a run that continues began (default: today). Raises UserError.
    """
    date = date or datetime.date.today().isoformat()
    elsewhere = replace(choice.access, revision=None, ignore_file_pattern=())
    adapter = read_adapter(config.adapter.adapter, access=elsewhere) if config.adapter.adapter else None
    base, base_tokenizer = _base(config, choice, adapter.record if adapter is not None else None)
    if adapter is not None and base is not None:
        adapter = native_adapter(adapter, base.config)
    own = replace(elsewhere, revision=config.model.revision)
    tokenizer = _tokenizer(config, adapter, base, base_tokenizer, own)
    targets = config.adapter.lora_target_modules
    if base is not None:
        targets = expand_targets(targets, base.modules, choice.entry)
    for notice in check_modes(_facts(verb, config, base, base_tokenizer, tokenizer, adapter, targets)):
        console.print(notice, highlight=False, markup=False)
    record = base.record if base is not None else None
    last = adapter.record if adapter is not None and adapter.record else record
    renderer, stop = None, last.stop if last else ()
    if isinstance(config, SftConfig):
        renderer = _renderer(config, tokenizer, adapter, record, choice.entry, date, console)
        stop = check_stop(renderer, tokenizer, base.directory if base else None, console)
    images = ImageSlots.of(base.config, tokenizer) if base is not None else None
    return Start(tokenizer, base, base_tokenizer, adapter, renderer, date, stop, targets, images)


def _facts(
    verb: Literal["pt", "sft"],
    config: PtConfig | SftConfig,
    base: BaseFacts | None,
    base_tokenizer: TextTokenizer | None,
    tokenizer: TextTokenizer,
    adapter: AdapterFiles | None,
    targets: tuple[str, ...],
) -> Facts:
    own = _tokenizer_of(adapter)
    settings = config.adapter
    return Facts(
        verb=verb,
        tuner=settings.tuner,
        base=base,
        tokenizer=TokenizerFacts(
            length=len(tokenizer),
            identity=tokenizer.identity,
            known=tokenizer.known,
            class_name=type(tokenizer.hf).__name__,
            extends_base=tokenizer.extends(base_tokenizer) if base_tokenizer is not None else None,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        ),
        adapter=adapter,
        adapter_tokenizer_identity=own.identity if own is not None else None,
        lora_flags=tuple(name for name in LORA_FLAGS if name in config.given),
        on_lora_flags=settings.on_lora_flags,
        lora={name: getattr(settings, name) for name in LORA_FLAGS},
        target_modules=targets,
        modules_to_save=settings.modules_to_save,
    )


def _base(
    config: PtConfig | SftConfig, choice: Choice, record: Record | None
) -> tuple[BaseFacts | None, TextTokenizer | None]:
    name = config.model.model
    if name is None:
        if config.model.variant is not None:
            raise UserError("--variant", "is given, and the model starts from scratch", mend="leave it out")
        return None, None
    folder, origin = find_checkpoint(name, "--model", choice.access)
    variant = choose_variant(
        folder,
        config.model.variant,
        recorded=record.base_variant if record else None,
        family=choice.entry.family if choice.entry else None,
    )
    load_config(folder, "--model", variant=variant)  # before the tokenizer, whose library reads it too
    tokenizer = _tokenizer_in(folder, "--model")
    base = read_base(
        folder,
        name=name,
        origin=origin,
        variant=variant,
        tokenizer_length=len(tokenizer) if tokenizer else None,
        tokenizer_identity=tokenizer.identity if tokenizer else None,
    )
    return base, tokenizer


def _tokenizer_in(folder: Path, place: str) -> TextTokenizer | None:
    """The tokenizer in a folder, None when it holds none."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return TextTokenizer.load(str(folder), place=place)


def _tokenizer_of(adapter: AdapterFiles | None) -> TextTokenizer | None:
    return _tokenizer_in(adapter.directory, "--adapter") if adapter is not None else None


def _tokenizer(
    config: PtConfig | SftConfig,
    adapter: AdapterFiles | None,
    base: BaseFacts | None,
    base_tokenizer: TextTokenizer | None,
    access: Access,
) -> TextTokenizer:
    """The named tokenizer, else the adapter's, else the base's."""
    if config.model.tokenizer:
        return TextTokenizer.load(local_tokenizer(config.model.tokenizer, "--tokenizer", access))
    own = _tokenizer_of(adapter)
    if own is not None:
        return own
    if base_tokenizer is None:
        if base is not None and (base.directory / "tokenizer_config.json").is_file():
            # It is described, and its vocabulary is not there: reading it says which file is missing.
            return TextTokenizer.load(str(base.directory), place="--model")
        raise UserError(
            "--tokenizer",
            "is missing, and neither the adapter nor the model brings one",
            expected="a folder or a tokenizer.model file",
        )
    return base_tokenizer


def _renderer(
    config: SftConfig,
    tokenizer: TextTokenizer,
    adapter: AdapterFiles | None,
    base_record: Record | None,
    entry: Entry | None,
    date: str,
    console: Console,
) -> Renderer:
    """The named template, else the one that the adapter or the base was tuned with, else that of the catalog's entry,
    else the tokenizer's own; an entry whose tokenizer has none takes ``default``, as the older tool did.

    A named one is compared with the tokenizer's own; one that earlier tuning used has been chosen already.
    """
    record = adapter.record if adapter is not None and adapter.record else base_record
    name, system = config.instruction.template, config.instruction.system
    now = datetime.datetime.fromisoformat(date)
    if name in (None, PUBLISHED) and record is not None and record.template:
        system = record.system if system is None else system
        return open_renderer(record.template, tokenizer, system=system, now=now)
    if name == PUBLISHED:
        name = published_template(len(tokenizer), tokenizer.pad_token)
    if name is None and entry is not None:
        name = entry.template or (None if tokenizer.chat_template else DEFAULT_TEMPLATE)
        if name is not None:
            console.print(f"Template: {name}, by the catalog (--template names another)", highlight=False)
    renderer = open_renderer(name, tokenizer, system=system, now=now)
    choice = config.instruction.on_template_difference
    return settle_template(renderer, tokenizer, system=system, choice=choice, console=console, now=now)
