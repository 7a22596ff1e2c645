"""Which model and tokenizer a run starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hanlin.config.hub import HubConfig
from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The base model, its tokenizer and how its weights are held."""

    model: str | None = None
    """Folder or hub id of the base model. Absent: --model_type, or from scratch on --model_config."""
    model_type: str | None = None
    """In place of --model, an id of the model catalog such as qwen-7b-chat: hub id, template and LoRA targets come
    from its entry (hanlin models lists them). Any other model type of transformers, such as llama, means
    --model_config."""
    variant: str | None = None
    """Family of a checkpoint of 2023 whose config.json does not tell it, such as baichuan2-7b."""
    tokenizer: str | None = None
    """Folder, tokenizer.model file or hub id of the tokenizer. Default: the adapter's, else the model's."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    cache_dir: str | None = None
    """Folder for downloaded models. Default: the hub client's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the loaded weights. auto: the mixed-precision type when one is asked for, else float32. float16 on a
    CPU becomes bfloat16. Trained weights are always float32."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention of transformers. Default: sdpa where the model has it."""
    model_config: str | None = None
    """From scratch only: a config.json, a folder that holds one, or a model type such as llama."""
    config_overrides: str | None = None
    """From scratch only: changes to the configuration, as name=value,name=value."""
    pad_to_multiple_of: int | None = None
    """Round the rows of a grown embedding matrix up to a multiple (64 suits GPUs and quantised formats)."""
    load_in_kbits: Literal["4", "8", "16", "32"] | None = None
    """Bits of the base weights. 16 and 32 mean no quantisation; 4 and 8 are refused until quantised bases are here."""
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.load_in_kbits in ("4", "8"):
            raise UserError(
                "--load_in_kbits",
                f"is {self.load_in_kbits}, and quantised bases are not trained by this version",
                expected="16",
                mend="leave the flag out and use --dtype bfloat16 with --gradient_checkpointing to save memory",
            )
        if self.config_overrides and self.model:
            raise UserError(
                "--config_overrides",
                "is for training from scratch, but --model is given",
                mend="remove one of the two",
            )
        if self.model_type is not None and self.model is not None:
            raise UserError(
                "--model_type",
                "and --model (or --model_id_or_path) are both given",
                expected="one of them",
                mend="a folder needs no type, its config.json says it",
            )
        if self.model_type is not None and self.model_config is not None:
            raise UserError("--model_type", "and --model_config are both given", expected="one of them")
        if self.model is None and self.model_config is None and self.model_type is None:
            raise UserError(
                "--model",
                "is missing",
                expected="a folder or hub id of a base model",
                mend="add --model PATH or --model_type ID, or --model_config llama to train from scratch",
            )
        if self.model is not None and self.model_config is not None:
            raise UserError(
                "--model_config",
                "is for training from scratch, but --model is given",
                mend="remove one of the two",
            )
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise UserError("--pad_to_multiple_of", f"is {self.pad_to_multiple_of}", expected="1 or more")
