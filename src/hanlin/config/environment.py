"""The only reading of environment variables: the place of this process among others, and what is said of hubs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hanlin.errors import UserError


@dataclass(frozen=True, slots=True)
class Processes:
    """Rank of this process and number of processes, as torchrun and accelerate say them."""

    rank: int
    local_rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """True in the process that prints and writes."""
        return self.rank == 0


def read_processes() -> Processes:
    """Read RANK, LOCAL_RANK and WORLD_SIZE; a lone process has none of them."""
    return Processes(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
    )


_TRUE = {"1", "true", "yes", "on", "t", "y"}
_FALSE = {"0", "false", "no", "off", "f", "n", ""}


@dataclass(frozen=True, slots=True)
class HubEnvironment:
    """What the environment says of hubs."""

    use_hf: bool | None
    """USE_HF: Hugging Face or ModelScope; None when it is not set."""
    offline: bool
    """HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""


def read_hub_environment() -> HubEnvironment:
    """Read USE_HF, HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE. Raises UserError for a value that is neither yes nor no."""
    use_hf = _switch("USE_HF") if os.environ.get("USE_HF") else None
    return HubEnvironment(use_hf=use_hf, offline=_switch("HF_HUB_OFFLINE") or _switch("TRANSFORMERS_OFFLINE"))


def _switch(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise UserError(name, f"is {value!r} in the environment", expected="1 or 0")
    return value in _TRUE
