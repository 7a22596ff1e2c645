"""Whether packed documents stay apart in a model, measured and not assumed."""

from __future__ import annotations

import torch
from torch import nn

from hanlin.model.loss import decoder_of, unwrap_causal_lm
from hanlin.model.precision import mixed_autocast


@torch.no_grad()
def packing_leak(model: nn.Module, *, document: int = 5, batch: int = 2) -> float:
    """How much the second document of a pack changes when the first one does; 0.0 where they do not see one another.

    Two packs of two documents of ``document`` tokens each differ only in the first document; compared are the hidden
    states of the second, relative to the largest of them. The model runs the way the attached loss runs it: position
    ids that restart, no mask, no cache. It costs two tiny passes, and finds attention back ends and architectures
    (recurrent ones, say) that ignore packed positions. More than one row, because some back ends read packed positions
    only in a batch of one.
    """
    causal_lm = unwrap_causal_lm(model)
    was_training = causal_lm.training
    causal_lm.eval()
    device = next(causal_lm.parameters()).device
    size: int = causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    first = torch.arange(batch * document, device=device).reshape(batch, document) % size
    second = (first + 1) % size
    position_ids = torch.arange(document, device=device).repeat(2).expand(batch, -1)
    decoder = decoder_of(causal_lm)
    try:
        with mixed_autocast(causal_lm):
            states = [
                decoder(
                    input_ids=torch.cat([before, second], dim=1),
                    position_ids=position_ids,
                    use_cache=False,
                    return_dict=True,
                ).last_hidden_state[:, document:]
                for before in (first, (first + 7) % size)
            ]
    finally:
        causal_lm.train(was_training)
    difference = (states[0].float() - states[1].float()).abs().max()
    return float(difference / states[0].float().abs().max())
