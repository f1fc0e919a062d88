"""Waits for conditions that other threads and processes fulfil."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT_S = 60.0
POLL_S = 0.005


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The value of the condition once that is true."""
    value = happens(condition, timeout_s)
    assert value, f"{what} did not happen within {timeout_s:g} s"
    return value


def happens(condition: Callable[[], Any], timeout_s: float) -> Any:
    """The value of the condition once that is true or the time has passed."""
    deadline = time.monotonic() + timeout_s
    while True:
        is_over = time.monotonic() >= deadline  # read before the condition
        value = condition()
        if value or is_over:
            return value
        time.sleep(POLL_S)
