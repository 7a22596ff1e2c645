"""What can be known before a weight is loaded: tokenizer, base and adapter by their headers, template, modes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.model.adapter_files import AdapterFiles, is_embedding, read_adapter
from hanlin.model.identity import Record, read_record, weights_identity
from hanlin.model.load import resolve_checkpoint
from hanlin.model.weights import WeightIndex, open_weights
from hanlin.template import CHAT_TEMPLATE, TEMPLATES, Renderer, SpecialTokens, resolve_renderer
from hanlin.vocab.tokenizer import TextTokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Start:
    """What a run starts from."""

    tokenizer: TextTokenizer
    base: Path | None
    """Local folder of the base; None when training from scratch."""
    base_name: str | None
    """The base as it was named."""
    base_tokenizer: TextTokenizer | None
    base_record: Record | None
    base_rows: int | None
    """Rows of the base's embedding."""
    base_identity: str | None
    adapter: AdapterFiles | None
    renderer: Renderer | None
    """How conversations are written; None in pre-training."""

    @property
    def chain(self) -> tuple[str, ...]:
        """Adapters that are merged into the base."""
        return self.base_record.chain if self.base_record else ()

    @property
    def inherited_template(self) -> str | None:
        """Template of the base, which pre-training leaves as it was."""
        return self.base_record.template if self.base_record else None

    @property
    def inherited_system(self) -> str | None:
        """System text of the base's template."""
        return self.base_record.system if self.base_record else None

    @property
    def template_source(self) -> str:
        """Text that defines the template: its data, or the tokenizer's own Jinja source."""
        assert self.renderer is not None, "pre-training has no template"
        if self.renderer.name == CHAT_TEMPLATE:
            return self.tokenizer.chat_template or ""
        return repr(TEMPLATES[self.renderer.name])


def open_start(verb: Literal["pt", "sft"], config: PtConfig | SftConfig, console: Console) -> Start:
    """Read headers, tokenizers and records and check that they fit one another. Raises UserError."""
    adapter = read_adapter(config.adapter.adapter) if config.adapter.adapter else None
    base, base_tokenizer, index = _base(config)
    tokenizer = _tokenizer(config, adapter, base_tokenizer)
    record = read_record(base) if base is not None else None
    rows = embedding_rows(index) if index is not None else None
    renderer = _renderer(config, tokenizer, adapter, record) if isinstance(config, SftConfig) else None
    start = Start(
        tokenizer=tokenizer,
        base=base,
        base_name=config.model.model,
        base_tokenizer=base_tokenizer,
        base_record=record,
        base_rows=rows,
        base_identity=weights_identity(index) if index is not None else None,
        adapter=adapter,
        renderer=renderer,
    )
    for notice in check_start(verb, config, start):
        console.print(notice, highlight=False, markup=False)
    return start


def _base(config: PtConfig | SftConfig) -> tuple[Path | None, TextTokenizer | None, WeightIndex | None]:
    if config.model.model is None:
        return None, None, None
    folder = resolve_checkpoint(config.model.model, revision=config.model.revision, cache_dir=config.model.cache_dir)
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    tokenizer = TextTokenizer.load(str(folder), place="--model") if has_tokenizer else None
    return folder, tokenizer, open_weights(folder, "--model")


def _tokenizer(
    config: PtConfig | SftConfig, adapter: AdapterFiles | None, base_tokenizer: TextTokenizer | None
) -> TextTokenizer:
    """The named tokenizer, else the adapter's, else the base's."""
    if config.model.tokenizer:
        return TextTokenizer.load(
            config.model.tokenizer, revision=config.model.revision, cache_dir=config.model.cache_dir
        )
    if adapter is not None and any((adapter.directory / name).is_file() for name in _TOKENIZER_FILES):
        return TextTokenizer.load(str(adapter.directory), place="--adapter")
    if base_tokenizer is None:
        raise UserError(
            "--tokenizer",
            "is missing, and neither the adapter nor the model brings one",
            expected="a folder or a tokenizer.model file",
        )
    return base_tokenizer


def _renderer(
    config: SftConfig, tokenizer: TextTokenizer, adapter: AdapterFiles | None, base_record: Record | None
) -> Renderer:
    """The named template, else the one that the adapter or the base was tuned with, else the tokenizer's own."""
    record = adapter.record if adapter is not None and adapter.record else base_record
    name, system = config.instruction.template, config.instruction.system
    if name is None and record is not None and record.template:
        name = record.template
        system = record.system if system is None else system
    pieces = tokenizer.pieces()
    special = SpecialTokens(
        bos=tokenizer.bos_token,
        eos=tokenizer.eos_token,
        all=tuple(pieces[index] for index in sorted(tokenizer.special_ids)),
    )
    return resolve_renderer(name, chat_template=tokenizer.chat_template, special=special, system=system)


def embedding_rows(index: WeightIndex) -> int | None:
    """Rows of the input embedding, from the header; None when it has an unknown name."""
    return next((t.shape[0] for name, t in index.tensors.items() if is_embedding(name)), None)


def check_start(verb: str, config: PtConfig | SftConfig, start: Start) -> list[str]:
    return []
