"""Settings of ``hanlin script check``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptConfig:
    """Read shell scripts without running them."""

    positional: ClassVar[tuple[str, ...]] = ("script",)

    script: tuple[str, ...]
    """Shell scripts to check."""
    notes: bool = True
    """Also print what does no harm, such as flags that change nothing."""
