"""What the tests of faults share."""

from __future__ import annotations

import pytest


@pytest.fixture
def address(tmp_path):
    """An address of this test's own."""
    return f"zmq+ipc://{tmp_path}/socket"
