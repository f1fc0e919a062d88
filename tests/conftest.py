"""What all tests may use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says more of the machine than of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test pictures, videos and reference models; tests skip where it is missing."""
    folder = Path(os.environ.get("VISION_TEST_DATA", ROOT.parent / "shared"))
    if not (folder / "DATA.md").is_file():
        pytest.skip(f"needs the test data, and {folder} is not there (VISION_TEST_DATA names it)")
    return folder.resolve()


@pytest.fixture(scope="session")
def crowding():
    """How many times longer than alone work takes on this machine now; at least 1.

    For what is promised within a time: on a machine whose processors others use it takes longer.
    """

    def measure(work_s: float = 0.2) -> float:
        start_s, start_cpu_s = time.monotonic(), time.thread_time()
        while time.thread_time() - start_cpu_s < work_s:
            pass
        return max((time.monotonic() - start_s) / work_s, 1.0)

    return measure
