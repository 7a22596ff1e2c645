"""Sizes of files as people write them."""

from __future__ import annotations

import re

from hanlin.errors import UserError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size_in_bytes(place: str, text: str) -> int:
    """``4GB``, ``500 MB`` or ``2GiB`` in bytes: GB are 10^9, GiB are 2^30. Raises UserError at ``place``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.strip().upper())
    unit = match[2] if match else ""
    if unit and not unit.endswith("B"):
        unit += "B"
    if match is None or unit not in _UNITS:
        raise UserError(place, f"is {text!r}", expected="a size such as 4GB or 500MB")
    return int(float(match[1]) * _UNITS[unit])
