"""Which weights are trained: all, or a low-rank adapter (LoRA, arXiv 2106.09685) with some modules in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanlin.errors import UserError

LORA_FLAGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules", "modules_to_save")
"""Settings of a new adapter; an adapter that is continued brings its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Full training, a new adapter, or the continuation of one."""

    tuner: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter or all weights."""
    adapter: str | None = None
    """Continue this adapter (folder). Its own settings hold; the --lora_* flags must then be left out."""
    on_lora_flags: Literal["error", "adapter"] = "error"
    """When --adapter and --lora_* flags are both given: stop, or let the adapter's settings win."""
    lora_rank: int = 8
    """Rank r of the update."""
    lora_alpha: float = 32.0
    """The update is scaled by alpha / r."""
    lora_dropout: float = 0.05
    """Dropout in front of the update, as a probability."""
    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """Modules that get an update: names, qkv (the query, key and value projections of the model), or all-linear.
    Default: what the catalog says of the model, else all-linear."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full and saved with the adapter, such as embed_tokens,lm_head."""

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise UserError("--lora_rank", f"is {self.lora_rank}", expected="1 or more")
        if self.lora_alpha <= 0:
            raise UserError("--lora_alpha", f"is {self.lora_alpha:g}", expected="more than 0")
        if not 0 <= self.lora_dropout < 1:
            raise UserError("--lora_dropout", f"is {self.lora_dropout:g}", expected="a probability from 0 up to 1")
        if self.tuner == "full" and self.adapter:
            raise UserError(
                "--adapter",
                "is given, but --tuner full trains no adapter",
                mend="merge the adapter first (hanlin merge), or remove --tuner full",
            )
        if not self.lora_target_modules:
            raise UserError("--lora_target_modules", "is empty", expected="module names or all-linear")
