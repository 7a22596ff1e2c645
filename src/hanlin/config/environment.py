"""The only reading of environment variables: the place of this process among others."""

from __future__ import annotations

import os
from dataclasses import dataclass


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
