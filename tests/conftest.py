"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two spinning OpenMP threads on a shared machine can be twenty times slower than one; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs that lies beside a checkout of the developers; other checkouts do without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder does not lie beside this checkout")
    return SHARED_DATA
