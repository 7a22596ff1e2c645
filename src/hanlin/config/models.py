"""Settings of ``hanlin models``: what is looked for, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsConfig:
    """List the models that --model_type knows by name."""

    positional: ClassVar[tuple[str, ...]] = ("search",)

    search: tuple[str, ...] = ()
    """Words that must all occur in an entry: in its id, hub ids, family, template or quantisation. Default: all."""
    json: bool = False
    """Print the entries as one JSON list, with everything that is known of them."""
    register: tuple[str, ...] = ()
    """Files with own entries of the catalog, as for --register of the other verbs."""
