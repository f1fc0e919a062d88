"""What all tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test pictures, videos and reference models; tests skip where it is missing."""
    folder = Path(os.environ.get("VISION_TEST_DATA", ROOT.parent / "shared"))
    if not (folder / "DATA.md").is_file():
        pytest.skip(f"needs the test data, and {folder} is not there (VISION_TEST_DATA names it)")
    return folder.resolve()
