"""More embedding rows for a longer vocabulary: new rows start as the mean of the old rows that spelled them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hanlin.errors import UserError


def num_rows_for(num_tokens: int, *, num_rows: int, multiple: int | None = None) -> int:
    """Rows that a matrix of ``num_rows`` needs for ``num_tokens`` tokens; never fewer than it has.

    ``multiple`` rounds up, for example 49,953 tokens with 64 to 49,984 rows; a matrix that is already large enough
    stays as it is.
    """
    if num_tokens <= num_rows:
        return num_rows
    step = multiple or 1
    return -(-num_tokens // step) * step


def resize_embeddings(model: PreTrainedModel, num_rows: int, spelling: Sequence[Sequence[int]]) -> None:
    """Give the input embeddings and the head of ``model`` ``num_rows`` rows, in place.

    ``spelling[i]`` holds the old ids that spelled token ``i`` (``vocab.spelling.spell_new_pieces``); ``[i]`` marks an
    old token, whose row does not change, so the logits of old tokens stay the same bit for bit. A new token starts as
    the mean of its spelling, in the input embeddings (V, D), in an untied head (V, D) and in the head's bias (V,); a
    token without spelling, and rows beyond the tokenizer, start as the mean of all old tokens. Means are taken in
    float32, the dtype of the weights stays.

    Raises UserError when rows would be lost or ``spelling`` names rows that the model does not have.
    """
    inputs = model.get_input_embeddings().weight
    old_rows = int(inputs.shape[0])
    kept = [index for index, ids in enumerate(spelling) if list(ids) == [index]]
    _check(num_rows, old_rows, spelling, kept)
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is inputs
    if num_rows > old_rows:
        # resize_token_embeddings draws the new rows at random before they are overwritten here; the run's own
        # random stream must not depend on whether a resize happened.
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(num_rows, mean_resizing=False)
    model.config.get_text_config().vocab_size = num_rows
    tensors = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None:
        assert (head.weight is tensors[0]) == tied, "transformers keeps tied weights tied"
        tensors += [] if tied else [head.weight]
        tensors += [] if getattr(head, "bias", None) is None else [head.bias]
    for tensor in tensors:
        _fill(tensor, spelling, kept or list(range(old_rows)), old_rows)


def _check(num_rows: int, old_rows: int, spelling: Sequence[Sequence[int]], kept: Sequence[int]) -> None:
    if num_rows < old_rows:
        raise UserError(
            "--tokenizer",
            f"asks for {num_rows:,} embedding rows, and the model has {old_rows:,}",
            expected="at least as many; rows are never cut off",
            mend="use the tokenizer that belongs to this model",
        )
    if num_rows < len(spelling):
        raise UserError(
            "--tokenizer",
            f"has {len(spelling):,} tokens, more than the {num_rows:,} embedding rows",
            expected="a row for each token",
        )
    highest = max((max(ids) for ids in spelling if ids), default=-1)
    if highest >= old_rows or len(kept) > old_rows:
        raise UserError(
            "--tokenizer",
            f"the old tokenizer has the id {highest:,}, and the model has only {old_rows:,} rows",
            expected="the tokenizer that the model was trained with",
        )


@torch.no_grad()
def _fill(tensor: torch.Tensor, spelling: Sequence[Sequence[int]], known: Sequence[int], old_rows: int) -> None:
    """Overwrite the rows of new tokens and of padding in ``tensor``, (V, D) or (V,), from its old rows."""
    mean_of_all = tensor[torch.tensor(known, device=tensor.device)].float().mean(dim=0)
    # Means come from a copy: a new id can lie among the rows that the model already had (padding of its maker).
    old = tensor[:old_rows].clone()
    for index, ids in enumerate(spelling):
        if list(ids) == [index]:
            continue
        mean = old[torch.tensor(list(ids), device=tensor.device)].float().mean(dim=0) if ids else mean_of_all
        tensor[index] = mean.to(tensor.dtype)
    tensor[max(len(spelling), old_rows) :] = mean_of_all.to(tensor.dtype)
