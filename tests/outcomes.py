"""What the tests of runs read from an outcome: ``from outcomes import losses, weights``."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from hanlin.train.run import Outcome


def losses(outcome: Outcome) -> list[float]:
    """The training losses of all logged steps, in order."""
    return [entry["loss"] for entry in outcome.history if "loss" in entry]


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    """The tensors that a run left: the adapter's, or the whole model's."""
    files = sorted(outcome.weights.glob("*.safetensors"))
    assert files, outcome.weights
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
