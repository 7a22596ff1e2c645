"""The settings of the training verbs: sections put together, one class a verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hanlin.config.adapter import AdapterConfig
from hanlin.config.data import CorpusConfig, InstructionConfig, SourceConfig
from hanlin.config.model import ModelConfig
from hanlin.config.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PtConfig:
    """Continued pre-training on plain text."""

    positional: ClassVar[tuple[str, ...]] = ("config",)

    model: ModelConfig
    source: SourceConfig
    corpus: CorpusConfig
    adapter: AdapterConfig
    training: TrainingConfig
    given: frozenset[str] = frozenset()
    trainer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Instruction tuning on conversations."""

    positional: ClassVar[tuple[str, ...]] = ("config",)

    model: ModelConfig
    source: SourceConfig
    instruction: InstructionConfig
    adapter: AdapterConfig
    training: TrainingConfig
    given: frozenset[str] = frozenset()
    trainer: Mapping[str, Any] = field(default_factory=dict)
