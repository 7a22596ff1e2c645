"""What a name may be, where several parts of the toolkit ask the same."""

from __future__ import annotations

import re

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")


def is_hub_id(name: str) -> bool:
    """Whether ``name`` is written as the hub writes them: ``owner/name`` or ``name`` in ASCII letters, digits, ``._-``.

    What is not is a path, and a missing one is told to the user without a question to the network.
    """
    return _HUB_ID.fullmatch(name) is not None
