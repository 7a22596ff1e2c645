"""The chunked loss inside a Hugging Face causal language model, so that trainers and wrappers need not know of it.

``attach_loss`` gives one model object another ``forward``. It works under PEFT, DDP and autocast wrappers, since all of
them end by calling the causal language model that they wrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType, TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from hanlin.model.cross_entropy import (
    Sums,
    causal_lm_loss,
    causal_lm_sums,
    linear_cross_entropy,
    plain_loss,
    plain_sums,
    token_mean,
)
from hanlin.model.precision import mixed_autocast

__all__ = [
    "PARITY_TOLERANCE",
    "AttachedLoss",
    "LossOutput",
    "attach_checked_loss",
    "attach_loss",
    "causal_lm_loss",
    "check_parity",
    "decoder_of",
    "linear_cross_entropy",
    "plain_loss",
    "unwrap_causal_lm",
]

PARITY_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest :func:`check_parity` of a model whose loss is taken from head(hidden). Both ways compute the same numbers in
another order, so the difference is a few units of rounding of the weights' format (2**-24, 2**-9, 2**-12)."""


@dataclass
class LossOutput(CausalLMOutput):
    """Loss of a batch and the sums behind it; ``logits`` is always None. All are scalars on the device."""

    nll_sum: Tensor | None = None
    """float32: negative log-likelihood of the trained tokens, in nats."""
    num_tokens: Tensor | None = None
    """int64: trained tokens."""
    num_correct: Tensor | None = None
    """int64: trained tokens that have the largest logit; None in training mode."""


def unwrap_causal_lm(model: nn.Module) -> nn.Module:
    """The causal language model inside DDP (``module``) and PEFT (``get_base_model``) wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = cast(Any, model).get_base_model()
        else:
            return model


class AttachedLoss:
    """A model whose ``forward`` computes our loss until :meth:`detach`, or until the ``with`` block ends."""

    def __init__(self, model: nn.Module, *, plain: bool = False, chunk_size: int | None = None) -> None:
        self.model = unwrap_causal_lm(model)
        if isinstance(getattr(self.model.forward, "attached", None), AttachedLoss):
            raise ValueError("a loss is attached to this model already")
        self.plain = plain
        self.chunk_size = chunk_size
        self.active = True
        self._before = vars(self.model).get("forward")
        self._original = self.model.forward

        def forward(module: nn.Module, input_ids: Tensor | None = None, **inputs: Any) -> Any:
            return self._forward(input_ids, inputs)

        forward.attached = self  # type: ignore[attr-defined]
        # A bound method, because accelerate wraps forward.__func__ for autocast.
        self._ours = MethodType(forward, self.model)
        self.model.forward = self._ours

    def _forward(self, input_ids: Tensor | None, inputs: dict[str, Any]) -> Any:
        if not self.active or inputs.get("labels") is None:
            return self._original(input_ids=input_ids, **inputs)
        labels = inputs.pop("labels")
        num_items = inputs.pop("num_items_in_batch", None)
        if inputs.pop("attention_mask", None) is not None:
            # With a mask, transformers stops reading packed position ids, and documents see one another.
            raise ValueError("a batch with labels carries position_ids and no attention_mask")
        inputs = {name: value for name, value in inputs.items() if value is not None}
        inputs |= {"input_ids": input_ids, "use_cache": False, "return_dict": True}
        count_correct = not self.model.training
        if self.plain:
            output = self._original(**inputs)
            sums = plain_sums(output.logits, labels, count_correct=count_correct)
            loss = token_mean(sums, num_items) + _auxiliary(self.model, output)
        else:
            hidden = decoder_of(self.model)(**inputs).last_hidden_state
            head = self.model.get_output_embeddings()  # type: ignore[operator]
            sums = causal_lm_sums(head, hidden, labels, chunk_size=self.chunk_size, count_correct=count_correct)
            loss = token_mean(sums, num_items)
        return _output(loss, sums)

    def detach(self) -> None:
        """Give the model its own ``forward`` back. Wrappers put around ours meanwhile stay, and reach the old one."""
        self.active = False
        if vars(self.model).get("forward") is not self._ours:
            return
        if self._before is None:
            del self.model.forward
        else:
            self.model.forward = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach_loss(model: nn.Module, *, plain: bool = False, chunk_size: int | None = None) -> AttachedLoss:
    """Make ``model(input_ids, position_ids, labels)`` return a :class:`LossOutput` without logits.

    The decoder runs without a cache and without a mask, so that packed pieces stay apart; the head sees only hidden
    states whose next token is trained. The loss is the sum over ``num_items_in_batch`` tokens if that is given, else
    over those of the batch. Without labels the model's own forward runs, as for generation. ``plain`` computes the
    same from whole logits. Raises ValueError for a batch with labels and an attention mask.
    """
    return AttachedLoss(model, plain=plain, chunk_size=chunk_size)


def attach_checked_loss(model: nn.Module, input_ids: Tensor) -> tuple[AttachedLoss, str | None]:
    """Attach the chunked loss if it equals the model's own, else the plain one and the notice to print.

    input_ids: int64 [B, T], a few real tokens on the model's device.
    """
    difference = check_parity(model, input_ids)
    causal_lm = unwrap_causal_lm(model)
    dtype = next(causal_lm.parameters()).dtype
    if difference <= PARITY_TOLERANCE.get(dtype, PARITY_TOLERANCE[torch.bfloat16]):
        return attach_loss(model), None
    notice = (
        f"{type(causal_lm).__name__} does more than its head on the last hidden state (difference {difference:.1g}): "
        "the plain loss is used, which needs memory for all logits of a batch"
    )
    return attach_loss(model, plain=True), notice


@torch.no_grad()
def check_parity(model: nn.Module, input_ids: Tensor) -> float:
    """Largest relative difference between the model and ``head(decoder(...))``; inf where they do not fit at all.

    Three things are compared, in evaluation mode: the input of the head with the decoder's last hidden state; the
    model's logits with a known ramp that a hook puts in place of the head's output, which finds soft-capping and
    scaling of any strength, also where logits are still small; and the model's own loss with ours, which finds extra
    terms (a load-balancing term, however small, is inf). input_ids: int64 [B, T].
    """
    causal_lm = unwrap_causal_lm(model)
    head = causal_lm.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        return float("inf")
    was_training = causal_lm.training
    causal_lm.eval()
    seen: list[Tensor] = []

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ramp = torch.linspace(-100, 100, output.shape[-1], device=output.device).to(output.dtype)
        seen[:] = [inputs[0], ramp]
        return ramp.expand_as(output)

    hook = None
    try:
        with mixed_autocast(causal_lm):
            hidden = decoder_of(causal_lm)(input_ids=input_ids, use_cache=False, return_dict=True).last_hidden_state
            own = causal_lm(input_ids=input_ids, labels=input_ids, use_cache=False)
            if getattr(own, "aux_loss", None) is not None:
                return float("inf")
            our_loss = token_mean(causal_lm_sums(head, hidden, input_ids), None)
            hook = head.register_forward_hook(replace)
            logits = causal_lm(input_ids=input_ids, use_cache=False).logits
        if not seen or seen[0].shape != hidden.shape:
            return float("inf")
        ramp = seen[1].expand_as(logits)
        return max(_relative(seen[0], hidden), _relative(logits, ramp), _relative(own.loss, our_loss))
    except (AttributeError, TypeError):  # a decoder or an output of another kind: ours cannot work with it
        return float("inf")
    finally:
        if hook is not None:
            hook.remove()
        causal_lm.train(was_training)


def decoder_of(causal_lm: nn.Module) -> nn.Module:
    """The part that turns ids into hidden states [B, T, D], the final norm included."""
    prefix = getattr(causal_lm, "base_model_prefix", "")
    inner = getattr(causal_lm, prefix, None) if prefix else None
    if isinstance(inner, nn.Module):
        return inner
    decoder: nn.Module = causal_lm.get_decoder()  # type: ignore[operator]
    return decoder


def _auxiliary(causal_lm: nn.Module, output: Any) -> Tensor | float:
    """Load-balancing term of a mixture of experts that asks for it, already weighted; else 0."""
    term = getattr(output, "aux_loss", None)
    if term is None:
        return 0.0
    weighted: Tensor = causal_lm.config.router_aux_loss_coef * term  # type: ignore[union-attr]
    return weighted


def _relative(one: Tensor, other: Tensor) -> float:
    scale = other.float().abs().max().clamp(min=1e-30)
    return float((one.float() - other.float()).abs().max() / scale)


def _output(loss: Tensor, sums: Sums) -> LossOutput:
    return LossOutput(
        loss=loss, logits=None, nll_sum=sums.nll.detach(), num_tokens=sums.num_tokens, num_correct=sums.num_correct
    )
