"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

import glpose  # noqa: F401 - before torch: how its idle threads wait

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real clips and reference vectors, which cannot be redistributed; tests that need it skip without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the development data beside the checkout (../shared/data), which is not redistributable")
    return SHARED_DATA
