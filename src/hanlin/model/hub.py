"""Models and adapters from the Hugging Face hub, through its own client: weights, settings, tokenizer, never code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hanlin.errors import UserError

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
ADAPTER_FILES = (*MODEL_FILES, "adapter_model.bin")


def download_model(name: str, place: str, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """The local folder of a model; pickled weights are fetched only where there are no others. Raises UserError."""
    folder = _download(name, place, MODEL_FILES, revision, cache_dir)
    if not any(folder.glob("*.safetensors")):
        folder = _download(name, place, (*MODEL_FILES, "pytorch_model*.bin"), revision, cache_dir)
    return folder


def download_adapter(name: str, place: str) -> Path:
    """The local folder of an adapter. Raises UserError."""
    return _download(name, place, ADAPTER_FILES, None, None)


def _download(
    name: str, place: str, patterns: Sequence[str], revision: str | None, cache_dir: str | Path | None
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = (lines[0] if lines else type(error).__name__)[:200]
        raise UserError(
            place, f"{name} is no folder here, and the hub does not give it ({reason})", expected="a folder or a hub id"
        ) from error
