"""The output layer of Baichuan2: logits from the rows of the matrix divided by their length.

While the matrix is frozen that is a plain linear layer whose rows were divided once, and so is every saved model. Where
the matrix is trained, the division must be part of the forward pass: with a plain layer its gradient is wrong by half.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

_ROWS = 512
"""Rows divided at once at loading: a float32 copy of a whole matrix of 125,696 rows would take 2 GB."""


class NormalisedLinear(nn.Linear):
    """``x @ (W / |W|).T`` with |W| the length of each row. A subclass, so that PEFT takes it for a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """input: [..., D] to [..., V]; the division is computed in float32 and has a gradient."""
        weight = functional.normalize(self.weight.float(), dim=1, eps=1e-12).to(self.weight.dtype)
        return functional.linear(input, weight)


def normalise_rows(weight: Tensor) -> Tensor:
    """Rows of ``weight`` [V, D] divided by their length, computed in float32 and cast back."""
    found = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for start in range(0, len(weight), _ROWS):
        part = slice(start, start + _ROWS)
        found[part] = functional.normalize(weight[part].float(), dim=1, eps=1e-12).to(weight.dtype)
    return found


def has_normalised_head(config: Any) -> bool:
    """Whether the family of a native config divides the rows of its output matrix."""
    return bool(getattr(config, "normalised_head", False))


def divide_in_forward(head: nn.Module) -> None:
    """Turn the plain output layer ``head`` into one that divides its rows; rows of length 1 stay what they are."""
    if type(head) is nn.Linear:
        head.__class__ = NormalisedLinear


class NormalisedHead:
    """For causal language models whose matrix is trained: a resized or replaced output layer divides its rows too."""

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Take ``new_embeddings`` as the output layer."""
        divide_in_forward(new_embeddings)
        self.lm_head = new_embeddings


class NormalisedLlamaConfig(LlamaConfig):
    """Llama while its normalised output matrix is trained. Its stored rows are not divided, and a plain Llama would
    use them as they are without a word: so it has a model type of its own."""

    model_type = "hanlin_normalised_llama"


class NormalisedLlamaForCausalLM(NormalisedHead, LlamaForCausalLM):
    """Baichuan2-7B in full training."""

    config_class = NormalisedLlamaConfig

    def __init__(self, config: NormalisedLlamaConfig) -> None:
        super().__init__(config)
        divide_in_forward(self.lm_head)


@torch.no_grad()
def divide_for_good(model: PreTrainedModel) -> None:
    """Divide the rows of a trained matrix in place, so that what is saved is a plain model of the same function."""
    head = model.get_output_embeddings()
    if not isinstance(head, NormalisedLinear):
        return
    head.weight.copy_(normalise_rows(head.weight))
    head.__class__ = nn.Linear  # type: ignore[assignment]
    if isinstance(model, NormalisedLlamaForCausalLM):
        values = model.config.to_dict()
        values.pop("model_type")
        model.__class__ = LlamaForCausalLM
        model.config = LlamaConfig(**values)
    elif hasattr(model.config, "divide_rows"):
        model.config.divide_rows = False
