"""Cross entropy over a vocabulary without the tensor of tokens by vocabulary.

The loss of a causal language model needs logits only where the next token is trained. So hidden states are selected
before the head, and head and cross entropy run over chunks of them; the gradient with respect to hidden states and head
is taken in the same pass, while the logits of the chunk are at hand::

    hidden [B, T, D] ──next token trained──▶ [N, D] ──chunk──▶ logits [n, V] ──▶ loss, dhidden [n, D], dweight [V, D]

Memory beside inputs and results is one chunk of float32 logits and one of the same size to normalise them, not N x V.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hanlin.types import IGNORE_INDEX

CHUNK_ELEMENTS = {"cpu": 1 << 22, "default": 1 << 26}
"""Logits in a chunk. On a CPU 128 rows of 32,000 (16 MB) were quickest, as they stay near the caches (times for chunks
of 64 to 1024 rows differ by less than half); on GPUs larger chunks are needed so that adding to the weight gradient,
V x D numbers a chunk, is cheap beside the products."""


class Sums(NamedTuple):
    """What a batch adds to a loss: float32 and int64 scalars, on the device. ``num_correct`` is None while training."""

    nll: Tensor
    num_tokens: Tensor
    num_correct: Tensor | None


def default_chunk_size(vocab_size: int, device: torch.device) -> int:
    """Rows of hidden states whose logits are computed together."""
    elements = CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["default"])
    return max(32, elements // vocab_size)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk_size: int | None = None,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """``cross_entropy((hidden @ weight.T + bias).float(), targets)`` in chunks; a float32 scalar.

    hidden: [N, D] and weight: [V, D], floating; targets: int64 [N], IGNORE_INDEX where there is none; bias: [V].
    ``chunk_size`` counts rows of hidden. ``mean`` divides by the number of targets (by 1 when there are none).

    Products run in the dtype of autocast where it is on, else in that of the inputs; softmax and sums in float32. The
    gradient of the weight is added up over chunks in float32. Parts that need no gradient cost nothing. The backward
    pass can run once: it gives its results away instead of copying them.
    """
    known = (targets != IGNORE_INDEX).nonzero().squeeze(-1)
    if len(known) < len(targets):
        hidden, targets = hidden.index_select(0, known), targets[known]
    nll, _ = _chunked(hidden, weight, targets, bias=bias, chunk_size=chunk_size, count_correct=False)
    if reduction == "mean":
        return nll / max(len(targets), 1)
    return nll


def _chunked(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None,
    chunk_size: int | None,
    count_correct: bool,
) -> tuple[Tensor, Tensor | None]:
    size = chunk_size or default_chunk_size(len(weight), hidden.device)
    # Inside an autograd function gradients are always off, and needs_input_grad is set even under no_grad.
    with_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
    apply: Any = _LinearCrossEntropy.apply
    nll, correct = apply(hidden, weight, bias, targets, size, dtype, with_grad, count_correct)
    return nll, correct if count_correct else None


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of negative log-likelihoods, and its gradients, in one pass over chunks. Every row has a target."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk_size: int,
        dtype: torch.dtype,
        with_grad: bool,
        count_correct: bool,
    ) -> tuple[Tensor, Tensor]:
        grad_hidden = torch.empty_like(hidden) if with_grad and ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if with_grad and ctx.needs_input_grad[1] else None
        grad_bias = None
        if bias is not None and with_grad and ctx.needs_input_grad[2]:
            grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        nll = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        minus_one = nll.new_full((1, 1), -1.0)
        # Cast once for all chunks; autocast itself would cast the weight again for each.
        with torch.autocast(hidden.device.type, enabled=False):
            cast_weight = weight.to(dtype)
            cast_bias = None if bias is None else bias.to(dtype)
            for start in range(0, len(hidden), chunk_size):
                part = slice(start, start + chunk_size)
                rows, answers = hidden[part].to(dtype), targets[part].unsqueeze(-1)
                log_probs = torch.log_softmax(
                    functional.linear(rows, cast_weight, cast_bias), dim=-1, dtype=torch.float32
                )
                nll -= log_probs.gather(-1, answers).sum()
                if count_correct:
                    correct += (log_probs.argmax(dim=-1, keepdim=True) == answers).sum()
                if not with_grad:
                    del log_probs
                    continue
                # d nll / d logits = softmax - one_hot(answer), in the memory of log_probs.
                grad_logits = log_probs.exp_().scatter_add_(-1, answers, minus_one.expand(len(answers), 1))
                del log_probs
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(dim=0)
                grad_logits = grad_logits.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grad_logits @ cast_weight
                if grad_weight is not None:
                    if dtype == torch.float32:
                        grad_weight.addmm_(grad_logits.t(), rows)
                    else:
                        grad_weight += grad_logits.t() @ rows
                del grad_logits  # before the next chunk, or three of them would be held at a time instead of two
        ctx.mark_non_differentiable(correct)
        ctx.grads = (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        return nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the backward pass of linear_cross_entropy can run only once")
        scaled = [None if grad is None else grad.mul_(grad_outputs[0]) for grad in ctx.grads]
        ctx.grads = None
        return (*scaled, None, None, None, None, None)


def direct_head(head: nn.Module) -> nn.Linear | None:
    """The plain linear layer that ``head`` amounts to, or None when only the module itself knows what it computes.

    A copy that PEFT trains (``modules_to_save``) is looked into. LoRA, quantised and normalising heads, hooks, and
    weights that live in pieces on several devices (DTensor, ZeRO-3) must be called as modules.
    """
    if isinstance(head, ModulesToSaveWrapper):
        active = head.active_adapters
        in_use = not head.disable_adapters and active and all(name in head.modules_to_save for name in active)
        head = head.modules_to_save[active[0]] if in_use else head.original_module
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook"):
        return None
    if type(head.weight) not in (nn.Parameter, Tensor) or hasattr(head.weight, "ds_id"):
        return None
    return head


def trained_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions whose next token is trained, int64 [N] in 0 .. B*T-1, and those tokens, int64 [N].

    labels: int64 [B, T]. The last position of a row has no next token::

        labels   .  7  8  .  5      positions 0 1 3, targets 7 8 5
    """
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).reshape(-1)
    positions = (targets != IGNORE_INDEX).nonzero().squeeze(-1)
    return positions, targets[positions]


def causal_lm_sums(
    head: nn.Module, hidden: Tensor, labels: Tensor, *, chunk_size: int | None = None, count_correct: bool = False
) -> Sums:
    """Summed negative log-likelihood of the trained tokens.

    head: maps [n, D] to logits [n, V]; hidden: [B, T, D], output of the decoder; labels: int64 [B, T], not shifted.
    Without a trained token the sum is a zero that still reaches every parameter, so that no rank waits for another.
    """
    positions, targets = trained_positions(labels)
    selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
    linear = direct_head(head)
    if linear is not None:
        nll, correct = _chunked(
            selected, linear.weight, targets, bias=linear.bias, chunk_size=chunk_size, count_correct=count_correct
        )
    else:
        nll, correct = _through_module(head, selected, targets, chunk_size=chunk_size, count_correct=count_correct)
    return Sums(nll, torch.tensor(len(targets), device=hidden.device), correct)


def _through_module(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, chunk_size: int | None, count_correct: bool
) -> tuple[Tensor, Tensor | None]:
    """The same for a head that must be called: each chunk forgets its logits and computes them again for backward."""
    size = chunk_size or default_chunk_size(_num_outputs(head), hidden.device)
    nll = torch.zeros((), dtype=torch.float32, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    # One chunk at least: with no row at all the head still takes part in the backward pass.
    for start in range(0, max(len(hidden), 1), size):
        rows, answers = hidden[start : start + size], targets[start : start + size]
        part, hits = checkpoint(_head_chunk, head, rows, answers, count_correct, use_reentrant=False)
        nll = nll + part
        correct = correct + hits
    return nll, correct if count_correct else None


def _head_chunk(head: nn.Module, rows: Tensor, answers: Tensor, count_correct: bool) -> tuple[Tensor, Tensor]:
    logits = head(rows).float()
    hits = (logits.argmax(dim=-1) == answers).sum() if count_correct else answers.new_zeros(())
    return functional.cross_entropy(logits, answers, reduction="sum"), hits


def _num_outputs(head: nn.Module) -> int:
    for name in ("out_features", "num_embeddings"):
        if isinstance(getattr(head, name, None), int):
            return int(getattr(head, name))
    return int(max(parameter.shape[0] for parameter in head.parameters()))


def plain_sums(logits: Tensor, labels: Tensor, *, count_correct: bool = False) -> Sums:
    """The same sums from logits [B, T, V] of a whole forward pass: for models that do more than ``head(hidden)``."""
    positions, targets = trained_positions(labels)
    selected = logits.reshape(-1, logits.shape[-1]).index_select(0, positions).float()
    nll = functional.cross_entropy(selected, targets, reduction="sum")
    correct = (selected.argmax(dim=-1) == targets).sum() if count_correct else None
    return Sums(nll, torch.tensor(len(targets), device=logits.device), correct)


def token_mean(sums: Sums, num_items: Tensor | int | None) -> Tensor:
    """The loss: the sum over ``num_items``, the trained tokens of the whole optimizer step; default: of this batch."""
    if num_items is None:
        return sums.nll / sums.num_tokens.clamp(min=1)
    if isinstance(num_items, Tensor):
        num_items = num_items.to(sums.nll.device)
    return sums.nll / num_items


def causal_lm_loss(
    head: nn.Module, hidden: Tensor, labels: Tensor, num_items: Tensor | int | None = None, **options: Any
) -> Tensor:
    """Mean negative log-likelihood over ``num_items`` tokens, a float32 scalar; see :func:`causal_lm_sums`."""
    return token_mean(causal_lm_sums(head, hidden, labels, **options), num_items)


def plain_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """The same mean from whole logits [B, T, V]: what the chunked loss is compared with and falls back to."""
    return token_mean(plain_sums(logits, labels), num_items)
