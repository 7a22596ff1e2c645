"""Qwen-VL v1: Qwen v1 whose ids may hold pictures. A model type of our own, as transformers has no class for it.

A picture takes the start id, 256 places and the end id; what the 256 places embed to is replaced, in order, by what the
vision tower makes of it. The ids in those places are not read (the tokenizer of 2023 wrote the picture's path there).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from hanlin.errors import UserError
from hanlin.model.native import qwen
from hanlin.model.native.family import Family, Fields
from hanlin.model.native.qwen_long import QwenLongModel
from hanlin.model.native.qwen_vision import POOL_HEAD, QUERIES, VisionTower

_VISION_FIELDS = (
    "image_size",
    "patch_size",
    "width",
    "layers",
    "heads",
    "mlp_ratio",
    "output_dim",
    "image_start_id",
)


class QwenVLConfig(Qwen2Config):
    """Qwen2 with ``visual``, the settings of the vision tower under their published names."""

    model_type = "hanlin_qwen_vl"
    visual: dict[str, Any] | None = None


class SeesImages:
    """For text models of Qwen: embeds pictures where ``pixel_values`` brings them."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        assert config.visual is not None, "settings() puts it there"
        self.config: Any = config
        self.visual = VisionTower(config.visual)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As Qwen2Model's. pixel_values: float [B, I, 3, S, S]; row b has as many pictures as its ids have start ids,
        its first ones, and zeros after them. Tokens after the prompt are run without: their pictures are cached."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if input_ids is not None and inputs_embeds is None and not past:
            inputs_embeds = self.embedded(input_ids, pixel_values)
            input_ids = None
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def embedded(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of ids with their pictures. Raises ValueError where ids and pictures do not fit."""
        found: Tensor = self.embed_tokens(input_ids)  # type: ignore[attr-defined]
        if pixel_values is not None:
            starts = input_ids == self.config.visual["image_start_id"]
            counts = starts.sum(dim=1)
            if int(counts.max()) > pixel_values.shape[1]:
                raise ValueError(f"{int(counts.max())} pictures in the ids of a row, pixels of {pixel_values.shape[1]}")
            if bool(starts.any()):
                used = torch.arange(pixel_values.shape[1], device=counts.device) < counts[:, None]
                vectors = self.visual(pixel_values[used])
                return found.masked_scatter(self._places(input_ids, starts)[..., None], vectors.to(found.dtype))
        trains: bool = self.training and torch.is_grad_enabled()  # type: ignore[attr-defined]
        if trains and any(parameter.requires_grad for parameter in self.visual.parameters()):
            # Ranks whose batch has pictures wait for the gradients of the tower from those whose batch has none.
            found = found + 0 * self.visual(self.visual.blank()).mean().to(found.dtype)
        return found

    def _places(self, input_ids: Tensor, starts: Tensor) -> Tensor:
        """The places of pictures, bool [B, T]."""
        rows, first = starts.nonzero(as_tuple=True)
        last = first + QUERIES + 1
        ends = input_ids[rows, last.clamp(max=input_ids.shape[1] - 1)]
        if bool((last >= input_ids.shape[1]).any()) or bool((ends != self.config.visual["image_start_id"] + 1).any()):
            raise ValueError(f"a start id is not followed by {QUERIES} places and the end id")
        places = torch.zeros_like(starts)
        offsets = torch.arange(1, QUERIES + 1, device=first.device)
        places[rows[:, None], first[:, None] + offsets] = True
        return places


class QwenVLModel(SeesImages, Qwen2Model):
    """Hidden states of Qwen-VL; the tower is ``visual``."""

    config_class = QwenVLConfig
    _no_split_modules = ("Qwen2DecoderLayer", "VisionBlock")


class QwenVLLongModel(SeesImages, QwenLongModel):  # type: ignore[misc]
    """The same with the rules of Qwen v1 past the trained length, which two or three pictures reach."""

    config_class = QwenVLConfig
    _no_split_modules = ("Qwen2DecoderLayer", "VisionBlock")


class QwenVLForCausalLM(Qwen2ForCausalLM):
    """Qwen-VL and Qwen-VL-Chat. Plain transformers loads it after ``own_types.register()``."""

    config_class = QwenVLConfig
    text_model: type[Any] = QwenVLModel

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.model = self.text_model(config)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        """As Qwen2ForCausalLM's, with pixel_values as in ``SeesImages.forward``."""
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)


class QwenVLLongForCausalLM(QwenVLForCausalLM):
    """Qwen-VL for inference. Never saved: the same weights are a QwenVLForCausalLM."""

    text_model = QwenVLLongModel


def settings(fields: Fields) -> dict[str, Any]:
    """Fields of QwenVLConfig. Raises UserError for a tower that cannot be built."""
    visual = fields("visual")
    if not isinstance(visual, dict):
        raise UserError(fields.file, f"visual is {visual!r}", expected="an object")
    vision = Fields(visual, fields.file)
    found = {name: vision(name) for name in _VISION_FIELDS}
    vision.must_be("n_queries", QUERIES, "a picture takes 256 places")
    text = qwen.settings(fields)
    if found["output_dim"] != text["hidden_size"]:
        raise _misfit(fields, found, "output_dim", "it is not hidden_size")
    if found["output_dim"] % POOL_HEAD:
        raise _misfit(fields, found, "output_dim", f"heads of {POOL_HEAD} do not fill it")
    if found["width"] % found["heads"]:
        raise _misfit(fields, found, "heads", "it does not divide width")
    if found["image_size"] % found["patch_size"]:
        raise _misfit(fields, found, "patch_size", "it does not divide image_size")
    return text | {"visual": found}


def _misfit(fields: Fields, visual: dict[str, Any], name: str, why: str) -> UserError:
    return UserError(fields.file, f"visual.{name} is {visual[name]}: {why}", mend="download config.json again")


_TOWER = (
    "visual",
    *(f"visual.{name}" for name in ("conv1", "ln_pre", "ln_post", "attn_pool")),
    *(f"visual.attn_pool.{name}" for name in ("kv_proj", "ln_q", "ln_kv", "attn", "attn.out_proj")),
    *(
        f"visual.transformer.resblocks.{{}}.{name}"
        for name in ("ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    ),
)
"""Modules of the tower, which keep their names; only what stands before ``visual`` differs."""


QWEN_VL = Family(
    name="qwen-vl",
    title="Qwen-VL",
    model_type="qwen",
    native=QwenVLForCausalLM,
    settings=settings,
    modules={
        **qwen.QWEN.modules,
        **{f"transformer.{name}": f"model.{name}" for name in _TOWER},
    },
    rows=qwen.QWEN.rows,
    dropped=qwen.QWEN.dropped,
    stop_ids=qwen.stop_ids,
)
