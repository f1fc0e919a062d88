"""Tests that need more than this machine has: which are left out, and one line that counts them.

A test is left out if a whole part of the suite cannot run here: the data for measurements of
accuracy, ROS 2, PyTorch. It is skipped, one by one, if a device or a tool is missing.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(os.environ.get("VISION_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
"""The folder of images, videos and reference models that the accuracy is measured with."""

HAVE_DATA = (DATA / "DATA.md").is_file()
HAVE_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "vision_msgs"))
ARM = os.environ.get("VISION_TEST_ARM", "")
"""A Python for Arm under emulation, which `make test-arm` makes."""
HAVE_TORCH = importlib.util.find_spec("torch") is not None

FIXTURES: dict[str, tuple[bool, str]] = {
    "shared": (HAVE_DATA, f"tests of accuracy (no data at {DATA}; VISION_TEST_DATA)"),
    "arm": (bool(ARM), "tests on Arm (make test-arm)"),
    "torch": (HAVE_TORCH, "comparisons with PyTorch (not installed)"),
}
"""By fixture: whether what it gives is here, and what the tests that use it are."""

left_out: Counter[str] = Counter()


class FileWithoutRos(pytest.Module):
    """A file of tests that is left out without importing it."""

    def collect(self) -> list[pytest.Item]:
        left_out["files with ROS 2 (make test-ros)"] += 1
        return []


def leave_out(items: list[pytest.Item], deselect: Callable[[list[pytest.Item]], None]) -> None:
    """Remove the tests from `items` that use a fixture whose part is missing, and count them."""
    missing: list[pytest.Item] = []
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            is_here, reason = FIXTURES.get(fixture, (True, ""))
            if not is_here:
                left_out[reason] += 1
                missing.append(item)
                break
    if missing:
        items[:] = [item for item in items if item not in missing]
        deselect(missing)


def summary(skipped: list[pytest.TestReport]) -> str:
    """One line that counts the tests that did not run, by reason; empty if all ran."""
    reasons = Counter[str]()
    for report in skipped:
        if isinstance(report.longrepr, tuple):
            reasons[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    counted = [f"{count} {reason}" for reason, count in left_out.items()]
    counted += [f"{count} skipped: {reason}" for reason, count in reasons.most_common()]
    return "; ".join(counted)
