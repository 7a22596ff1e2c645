"""Settings of ``hanlin demo``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """The whole pipeline on a tiny model and shipped text: no network, about two minutes on two cores."""

    positional: ClassVar[tuple[str, ...]] = ("output_dir",)

    output_dir: str = "./hanlin-demo"
    """Folder of everything that the demo makes: tokenizers, models, adapters, answers and report.html."""
    overwrite: bool = False
    """Replace what an earlier demo left in the folder."""
    seed: int = 42
    """Seed of the first weights and of the order of the rows."""
    fast: bool = False
    """A few steps a stage, to see that everything runs. The answers are then not right."""

    def __post_init__(self) -> None:
        if not self.output_dir.strip():
            raise UserError("--output_dir", "is empty", expected="the name of a folder")
        if not 0 <= self.seed < 2**32:
            raise UserError("--seed", f"is {self.seed}", expected="0 or more, below 2^32")
