"""What an entry of the model catalog holds. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Hub = Literal["huggingface", "modelscope"]
HUB_NAMES: dict[Hub, str] = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}

QKV_GROUP = "qkv"
"""Word of ``--lora_target_modules`` for the projections that make queries, keys and values."""
ALL_LINEAR = "all-linear"

Q_K_V = ("q_proj", "k_proj", "v_proj")


NOT_NATIVE = "needs code of its own, which is never run, and no native family is proved equal to it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model by name. Module names are those of the checkpoint as it was published."""

    id: str
    """Name for ``--model_type``."""
    family: str
    """Name of the architecture. Where it is a native family of 2023 (``baichuan2-7b``), a checkpoint whose config.json
    does not tell its family is read as that one."""
    modelscope: str | None = None
    """Id on ModelScope."""
    huggingface: str | None = None
    """Id on Hugging Face; None where there is none, or none that is certain."""
    path: str | None = None
    """Folder on this machine, in place of hub ids."""
    template: str | None = None
    """Default template. None: the tokenizer's own, and ``default`` where the tokenizer has none."""
    qkv: tuple[str, ...] = Q_K_V
    """Modules that the group ``qkv`` of ``--lora_target_modules`` means."""
    lora_target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """What gets a LoRA update unless the user says otherwise: names, ``qkv`` or ``all-linear``."""
    quantization: Literal["gptq-int4", "gptq-int8", "bnb-4bit"] | None = None
    """How the weights of the checkpoint are packed."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The only dtype that the checkpoint works in; None: any."""
    revision: str | None = None
    """Branch, tag or commit to take. None: the hub's default branch."""
    ignore_file_pattern: tuple[str, ...] = ()
    """Regular expressions; files whose whole name matches one are not downloaded."""
    refused: str = ""
    """Why this version does not load it, after the id ("reads images ..."); empty: it does."""
    notes: str = ""

    def id_on(self, hub: Hub) -> str | None:
        """Its id on ``hub``."""
        return self.huggingface if hub == "huggingface" else self.modelscope

    def hub_ids(self) -> tuple[str, ...]:
        """Its ids on all hubs, each once."""
        return tuple(dict.fromkeys(hub_id for hub_id in (self.modelscope, self.huggingface) if hub_id))

    @property
    def refusal(self) -> str:
        """Why this version does not load the model, or nothing."""
        if self.refused or self.quantization is None:
            return self.refused
        return f"is quantised ({self.quantization}), and quantised bases are not in this version"
