"""The settings of a run with its model chosen: what a catalog entry says stands where the user said nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from hanlin.config.adapter import AdapterConfig
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.model.choose import Choice, choose_model
from hanlin.names import is_hub_id
from hanlin.train.start import Start

_DEFAULT_TARGETS = next(field.default for field in fields(AdapterConfig) if field.name == "lora_target_modules")


def choose(config: PtConfig | SftConfig) -> tuple[PtConfig | SftConfig, Choice]:
    """``config`` with the model by its folder or hub id and the entry's LoRA targets and dtype. Raises UserError.

    The template is found later: a record beside the weights goes before the catalog.
    """
    settings = config.model
    choice = choose_model(
        settings.model,
        settings.model_type,
        settings.hub,
        revision=settings.revision,
        cache_dir=settings.cache_dir,
        may_start_from_scratch=True,
    )
    model = replace(
        settings,
        model=choice.model,
        model_type=None,
        model_config=choice.scratch or settings.model_config,
        dtype=choice.dtype(settings.dtype),
    )
    adapter = config.adapter
    said = "lora_target_modules" in config.given or adapter.lora_target_modules != _DEFAULT_TARGETS
    if choice.entry is not None and not said:
        adapter = replace(adapter, lora_target_modules=choice.entry.lora_target_modules)
    return replace(config, model=model, adapter=adapter), choice


def pinned(config: PtConfig | SftConfig, start: Start) -> PtConfig | SftConfig:
    """``config`` with the hub and the commit that the base came from, so that its settings run again on the same files.

    Where a tokenizer of another hub id is named, the one ``--revision`` cannot say both, and stays as it was given.
    """
    origin = start.base.origin if start.base else None
    if origin is None:
        return config
    hub = replace(config.model.hub, use_hf=origin.hub == "huggingface")
    tokenizer = config.model.tokenizer
    shared = tokenizer is not None and is_hub_id(tokenizer) and not Path(tokenizer).expanduser().exists()
    revision = config.model.revision if shared else origin.revision
    return replace(config, model=replace(config.model, hub=hub, revision=revision))
