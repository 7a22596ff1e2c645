"""What is known about a base, a tokenizer and a run from headers, configs and records, before a weight is loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PretrainedConfig

from hanlin.errors import UserError
from hanlin.model.adapter_files import AdapterFiles
from hanlin.model.hub import Origin
from hanlin.model.identity import Record, read_record, weights_identity
from hanlin.model.load import empty_model, load_config, open_base, resolve_checkpoint
from hanlin.model.weights import WeightIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """Plain values about the tokenizer of the run, filled in by the caller."""

    length: int
    identity: str
    known: str | None = None
    """"chinese-llama" and the like when it is one of the published files."""
    class_name: str | None = None
    """Class in transformers, such as LlamaTokenizer."""
    extends_base: bool | None = None
    """Whether its first pieces are those of the base's own tokenizer; None when the base has none."""
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """A base model by its headers. What is expensive is found when it is first asked for."""

    name: str
    """Path or hub id as given."""
    directory: Path
    config: PretrainedConfig
    index: WeightIndex
    record: Record | None
    origin: Origin | None = None
    """Hub and commit that the files came from, None for a folder of the user's."""
    variant: str | None = None
    """Family of 2023 that it is read as, where its config.json does not decide."""
    tokenizer_length: int | None = None
    """Length of the base's own tokenizer, None when it has none."""
    tokenizer_identity: str | None = None

    @cached_property
    def identity(self) -> str:
        """``weights_identity``; reads the whole checkpoint once."""
        return weights_identity(self.index)

    @cached_property
    def modules(self) -> dict[str, tuple[int, ...]]:
        """Each module with a weight matrix and its shape, by the names of the live model (built without memory)."""
        return {n.removesuffix(".weight"): tuple(p.shape) for n, p in self._empty.named_parameters() if p.ndim == 2}

    @cached_property
    def embedding(self) -> str:
        """Name of the input embedding, such as model.embed_tokens."""
        return _name_of(self._empty, self._empty.get_input_embeddings())

    @cached_property
    def head(self) -> str | None:
        """Name of the output head, None when it is tied to the embedding."""
        head = self._empty.get_output_embeddings()
        if head is None or self.tied:
            return None
        return _name_of(self._empty, head)

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix."""
        return bool(getattr(self.config, "tie_word_embeddings", False))

    @property
    def rows(self) -> int:
        """Rows of the embedding, from the header of the weights."""
        info = self.index.tensors.get(f"{self.embedding}.weight")
        return info.shape[0] if info else int(self.config.get_text_config().vocab_size)

    @cached_property
    def _empty(self) -> Any:
        config = copy.deepcopy(self.config)
        config.get_text_config().pad_token_id = None  # a pad id outside the matrix is reported, not a crash
        try:
            return empty_model(config)
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(self.directory / "config.json", f"describes no language model ({reason[:160]})") from error


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One run of ``hanlin pt`` or ``hanlin sft``, before it starts. ``base`` None is training from scratch."""

    verb: Literal["pt", "sft"]
    tuner: Literal["lora", "full"] = "lora"
    base: BaseFacts | None
    tokenizer: TokenizerFacts
    adapter: AdapterFiles | None = None
    adapter_tokenizer_identity: str | None = None
    """Identity of the tokenizer that lies beside the adapter, None when there is none."""
    lora_flags: tuple[str, ...] = ()
    """Settings of a new adapter that the user gave, such as lora_rank."""
    on_lora_flags: Literal["error", "adapter"] = "error"
    lora: Mapping[str, object] = field(default_factory=dict)
    """Resolved settings of a new adapter, defaults included, for the notice."""
    target_modules: tuple[str, ...] = ("all-linear",)
    modules_to_save: tuple[str, ...] = ()


def read_base(
    path_or_id: str | Path,
    *,
    place: str = "--model",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    name: str | None = None,
    origin: Origin | None = None,
    variant: str | None = None,
    tokenizer_length: int | None = None,
    tokenizer_identity: str | None = None,
) -> BaseFacts:
    """Facts about a base model from its config, headers and record; raises UserError when they cannot be read.

    ``name`` and ``origin`` say how the user called it and where it came from, when ``path_or_id`` is its folder;
    ``variant`` names its family of 2023 where its config.json does not.
    """
    directory = resolve_checkpoint(path_or_id, place=place, revision=revision, cache_dir=cache_dir)
    return BaseFacts(
        name=name or str(path_or_id),
        origin=origin,
        directory=directory,
        variant=variant,
        config=load_config(directory, place, variant=variant),
        index=open_base(directory, place, variant=variant),
        record=read_record(directory),
        tokenizer_length=tokenizer_length,
        tokenizer_identity=tokenizer_identity,
    )


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is wanted)
