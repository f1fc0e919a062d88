"""Fixtures for the tests of faults."""

from __future__ import annotations

import pytest


@pytest.fixture
def address(tmp_path):
    """An address that only this test uses."""
    return f"zmq+ipc://{tmp_path}/socket"
