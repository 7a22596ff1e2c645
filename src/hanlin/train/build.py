"""From a checked start to the live model: weights, grown vocabulary, adapter, what trains and in which format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from hanlin.config.adapter import AdapterConfig
from hanlin.config.model import ModelConfig
from hanlin.errors import UserError
from hanlin.model.adapter import (
    attach_adapter,
    enable_input_gradients,
    expected_adapter_bytes,
    new_adapter,
    trainable_summary,
)
from hanlin.model.load import load_model, model_from_config
from hanlin.model.precision import Precision, trainable_to_float32
from hanlin.model.resize import num_rows_for, resize_embeddings
from hanlin.train.start import Start
from hanlin.vocab.spelling import spell_new_pieces


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to train and what is said of it."""

    model: nn.Module
    trained: str
    """One sentence: what trains, for the screen and the card."""


def build_model(
    start: Start,
    model_config: ModelConfig,
    adapter: AdapterConfig,
    precision: Precision,
    *,
    gradient_checkpointing: bool,
    console: Console,
) -> Built:
    """Load or make the base, grow its embeddings to the tokenizer, put the adapter on, and choose what trains."""
    dtype = torch.float32 if adapter.tuner == "full" else precision.load_dtype
    base = _base(start, model_config, dtype, whole=adapter.tuner == "full")
    base.config.use_cache = False
    _grow(base, start, model_config, console)
    model: nn.Module = base
    if adapter.tuner == "lora":
        model = _adapter(base, start, adapter)
    trainable_to_float32(model)
    if gradient_checkpointing and not base.get_input_embeddings().weight.requires_grad:
        enable_input_gradients(model)
    trained, total = trainable_summary(model)
    what = _describe(model, adapter, trained, total)
    console.print(what, highlight=False)
    return Built(model, what)


def _base(start: Start, config: ModelConfig, dtype: torch.dtype, *, whole: bool) -> PreTrainedModel:
    if start.base is not None:
        return load_model(
            start.base.directory,
            dtype=dtype,
            attn_implementation=config.attn_implementation,
            variant=start.base.variant,
            purpose="all weights" if whole else "any",
        )
    assert config.model_config is not None, "the configuration asks for a model or a model_config"
    source: str | dict[str, str] = config.model_config
    multiple = config.pad_to_multiple_of or start.tokenizer.pad_to_multiple_of
    if not Path(config.model_config).exists() and "/" not in config.model_config and "." not in config.model_config:
        source = {"model_type": config.model_config}
    return model_from_config(
        source,
        config.config_overrides,
        dtype=dtype,
        vocab_size=num_rows_for(len(start.tokenizer), num_rows=0, multiple=multiple),
        attn_implementation=config.attn_implementation,
    )


def _grow(base: PreTrainedModel, start: Start, config: ModelConfig, console: Console) -> None:
    """New rows for new pieces, from the mean of the old pieces that spelled them."""
    have = base.get_input_embeddings().weight.shape[0]
    multiple = config.pad_to_multiple_of or start.tokenizer.pad_to_multiple_of
    if start.base is None:
        return
    rows = num_rows_for(len(start.tokenizer), num_rows=have, multiple=multiple)
    if start.base_tokenizer is not None and len(start.tokenizer) > len(start.base_tokenizer):
        spelling = spell_new_pieces(start.base_tokenizer, start.tokenizer)
    elif rows > have:
        # Without the base's own tokenizer nothing says how the new pieces were spelled: they start from the mean.
        spelling = [[index] if index < have else [] for index in range(len(start.tokenizer))]
    else:
        return
    if start.adapter is not None and start.adapter.embedding_rows() is not None:
        return  # the adapter brings all rows
    new = sum(ids != [index] for index, ids in enumerate(spelling))
    resize_embeddings(base, rows, spelling)
    console.print(f"Embeddings: {have:,} rows grown to {rows:,}, {new:,} new pieces start from their old spelling")


def _adapter(base: PreTrainedModel, start: Start, config: AdapterConfig) -> PeftModel:
    if start.adapter is not None:
        return attach_adapter(base, start.adapter, trainable=True)
    return new_adapter(
        base,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=start.target_modules,
        modules_to_save=config.modules_to_save,
    )


def _describe(model: nn.Module, config: AdapterConfig, trained: int, total: int) -> str:
    share = f"{trained:,} of {total:,} parameters ({trained / max(total, 1):.2%})"
    if trained == 0:
        raise UserError("--tuner", "nothing would be trained", expected="at least one trained weight")
    if not isinstance(model, PeftModel):
        return f"all weights, {share}"
    settings = model.peft_config[model.active_adapter]
    whole = list(settings.modules_to_save or [])
    targets = settings.target_modules
    names = targets if isinstance(targets, str) else ",".join(sorted({name.rsplit(".", 1)[-1] for name in targets}))
    size = expected_adapter_bytes(model)
    also = f" and {','.join(whole)} in full" if whole else ""
    return (
        f"LoRA r={settings.r} alpha={settings.lora_alpha:g} on {names}{also}: {share}; "
        f"the adapter file will have about {_size(size)}"
    )


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"
