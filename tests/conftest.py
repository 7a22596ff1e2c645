"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs that lies beside a checkout of the developers; other checkouts do without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder does not lie beside this checkout")
    return SHARED_DATA
