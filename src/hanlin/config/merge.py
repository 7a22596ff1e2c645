"""Settings of ``hanlin merge``: which adapters go into which base, and in which form the result is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hanlin.config.hub import HubConfig
from hanlin.config.sizes import size_in_bytes
from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """One base, one or several adapters in order, one output folder."""

    positional: ClassVar[tuple[str, ...]] = ("adapter",)

    model: str | None = None
    """Folder or hub id of the base model. Default: the base that the first adapter names in its record."""
    model_type: str | None = None
    """In place of --model, an id of the model catalog, such as qwen-7b-chat (hanlin models lists them)."""
    variant: str | None = None
    """Family of a checkpoint of 2023 whose config.json does not tell it, such as baichuan2-7b."""
    adapter: tuple[str, ...]
    """Adapter folders in the order in which they were trained, separated by commas or spaces."""
    output_dir: str = "./merged_model"
    """Folder to write. It appears only when everything succeeded, the proof included."""
    output_type: Literal["safetensors", "huggingface", "pth"] = "safetensors"
    """safetensors (huggingface means the same), or pth: consolidated.0x.pth and params.json, for Llama only."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the written weights. auto: the type that each tensor of the base has."""
    max_shard_size: str = "4GB"
    """Largest weight file, such as 500MB; also about the memory that merging takes. One larger tensor gets its own."""
    num_shards: int | None = None
    """pth only: number of consolidated files. Default: 1 for 7B, 2 for 13B, 4 for 33B, 8 for 65B and 70B, else 1."""
    tokenizer: str | None = None
    """Folder of the tokenizer to put beside the weights. Default: the last adapter's, else the base's."""
    proof: Literal["logits", "weights", "none"] = "logits"
    """weights: every written tensor is read back and compared with base + update, in float64. logits: besides, base
    with adapters and the written model must give the same logits in float32; takes memory for one whole model."""
    overwrite: bool = False
    """Replace an output folder that holds a model. The old one is removed only after the new one is complete."""
    allow_other_base: bool = False
    """Merge although the records say that an adapter was trained on other weights; printed as a warning."""
    verbose: bool = False
    """Print a line for every tensor that changes."""
    revision: str | None = None
    """Branch, tag or commit of the base's hub id. Default: the one in the first adapter's record."""
    cache_dir: str | None = None
    """Folder for downloaded models. Default: the hub client's own."""
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.model and self.model_type:
            raise UserError("--model_type", "and --model are both given", expected="one of them")
        if not self.adapter:
            raise UserError("--adapter", "is empty", expected="one or several adapter folders, in order")
        if self.num_shards is not None and self.output_type != "pth":
            raise UserError("--num_shards", f"is for pth, and the output type is {self.output_type}",
                            mend="use --max_shard_size, or --output_type pth")  # fmt: skip
        if self.num_shards is not None and self.num_shards < 1:
            raise UserError("--num_shards", f"is {self.num_shards}", expected="1 or more")
        if self.max_shard_bytes < 1:
            raise UserError("--max_shard_size", f"is {self.max_shard_size!r}", expected="more than 0")

    @property
    def max_shard_bytes(self) -> int:
        """``max_shard_size`` in bytes: GB are 10^9, GiB are 2^30. Raises UserError."""
        return size_in_bytes("--max_shard_size", self.max_shard_size)
