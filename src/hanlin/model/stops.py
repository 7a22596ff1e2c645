"""Ids that end an answer, as ``generation_config.json`` names them for every program that reads the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

StopIds = int | list[int] | None

_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def joined_stops(taught: Sequence[int], former: StopIds) -> StopIds:
    """``eos_token_id`` of a model that was taught to stop at ``taught``: these first, then those it had."""
    had = former if isinstance(former, list) else [] if former is None else [former]
    ids = list(dict.fromkeys([*taught, *had]))
    return ids if len(ids) > 1 else ids[0] if ids else None


def generation_settings(
    settings: Mapping[str, Any] | None, config: Mapping[str, Any], taught: Sequence[int]
) -> dict[str, Any] | None:
    """``generation_config.json`` beside weights that were taught to stop at ``taught``.

    ``settings`` are those of the base, None where it has none: transformers takes the ids of ``config`` (config.json)
    then, and so are they taken here.
    """
    if settings is None:
        if not taught:
            return None
        settings = {name: config[name] for name in _ROLES if config.get(name) is not None}
    former = settings.get("eos_token_id", config.get("eos_token_id"))
    return {**settings, "eos_token_id": joined_stops(taught, former)} if taught else dict(settings)
