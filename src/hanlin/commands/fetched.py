"""A tokenizer by the name that a user gave to a verb which needs no model: a path, or the id of a hub."""

from __future__ import annotations

from hanlin.config.hub import TokenizerHubConfig
from hanlin.model.hub import default_access, local_tokenizer
from hanlin.vocab.tokenizer import TextTokenizer


def fetched_path(name: str, place: str, hub: TokenizerHubConfig) -> str:
    """``name`` where it is a path, else the folder of its download. Raises UserError at ``place``."""
    access = default_access(hub.revision, hub.cache_dir, use_hf=hub.use_hf, offline=hub.offline)
    return local_tokenizer(name, place, access)


def fetched_tokenizer(name: str, place: str, hub: TokenizerHubConfig) -> TextTokenizer:
    """The tokenizer that ``name`` stands for. Raises UserError at ``place``."""
    return TextTokenizer.load(fetched_path(name, place, hub), place=place)
