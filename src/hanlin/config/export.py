"""Settings of ``hanlin export``: which checkpoint is written once more, in which form, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hanlin.config.hub import HubConfig
from hanlin.config.sizes import size_in_bytes
from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """One checkpoint and the form it is to have."""

    positional: ClassVar[tuple[str, ...]] = ("model",)

    to: Literal["native"]
    """native: a checkpoint of 2023 that brought its own code, in the format of today's libraries (safetensors, native
    settings, fast tokenizer)."""
    model: str | None = None
    """Folder or hub id of the checkpoint."""
    model_type: str | None = None
    """In place of --model, an id of the model catalog, such as qwen-7b-chat (hanlin models lists them)."""
    variant: str | None = None
    """Family of a checkpoint of 2023 whose config.json does not tell it, such as baichuan2-7b."""
    output_dir: str
    """Folder to write. It appears only when everything succeeded, the proof included."""
    max_shard_size: str = "4GB"
    """Largest weight file, such as 500MB; also about the memory that writing takes. One larger tensor gets its own."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer to put beside the weights. Default: the checkpoint's own."""
    proof: Literal["logits", "weights", "none"] = "logits"
    """weights: what was written is put together again and compared with the checkpoint, bit for bit. logits: besides,
    the written folder, loaded by plain transformers, must give the logits of the checkpoint in float32; takes memory
    for one whole model."""
    overwrite: bool = False
    """Replace an output folder that holds a model. The old one is removed only after the new one is complete."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    cache_dir: str | None = None
    """Folder for downloaded models. Default: the hub client's own."""
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.model and self.model_type:
            raise UserError("--model_type", "and --model are both given", expected="one of them")
        if not self.model and not self.model_type:
            raise UserError(
                "--model", "is missing", expected="a folder or hub id of a checkpoint, or --model_type with an id"
            )
        if self.max_shard_bytes < 1:
            raise UserError("--max_shard_size", f"is {self.max_shard_size!r}", expected="more than 0")

    @property
    def max_shard_bytes(self) -> int:
        """``max_shard_size`` in bytes. Raises UserError."""
        return size_in_bytes("--max_shard_size", self.max_shard_size)
