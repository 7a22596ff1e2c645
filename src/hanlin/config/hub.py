"""Where models come from: which hub, with or without a network, and the user's own entries of the catalog."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """The hub that ids belong to."""

    use_hf: bool | None = None
    """true: hub ids are those of Hugging Face. false: of ModelScope (pip install 'hanlin[modelscope]'). Default: the
    environment variable USE_HF, else Hugging Face, or ModelScope for a model that only it has."""
    offline: bool = False
    """Take models from the cache and never from the network. HF_HUB_OFFLINE=1 means the same."""
    register: tuple[str, ...] = ()
    """Files with own entries of the model catalog: .yaml, or .py, which is run because you name it here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerHubConfig:
    """The hub that the ids of tokenizers belong to."""

    use_hf: bool | None = None
    """true: hub ids are those of Hugging Face. false: of ModelScope (pip install 'hanlin[modelscope]'). Default: the
    environment variable USE_HF, else Hugging Face."""
    offline: bool = False
    """Take tokenizers from the cache and never from the network. HF_HUB_OFFLINE=1 means the same."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    cache_dir: str | None = None
    """Folder for what is fetched from the hub. Default: the hub client's own."""
