"""Watches the file descriptors that newcomers take up.

Each connection takes one or two. Where none is left for the next, it waits over TCP until there is
one, but over ipc libzmq 4.3.5 aborts the process (`ipc_listener.cpp` takes that for impossible). No
setting keeps newcomers out, so the end comes in order, before that.
"""

from __future__ import annotations

import logging
import os
import resource
import time

from pipeline.errors import RunError

FEW = 16
LAST = 6
"""So many are kept for those who come between two checks."""

CHECK_S = 0.05

log = logging.getLogger(__name__)


class Door:
    """Where a socket is bound."""

    def __init__(self) -> None:
        self._endpoints: list[str] = []
        self._has_warned = False
        self._next_check_s = 0.0

    def add(self, endpoint: str) -> None:
        """Note an endpoint that the socket has bound."""
        self._endpoints.append(endpoint)

    def check(self) -> None:
        """Look, every `CHECK_S` only, whether there is room for newcomers; warn once of little.

        Raises `RunError` where the next but `LAST` would end the process.
        """
        now_s = time.monotonic()
        if not self._endpoints or now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_S
        spare = spare_files()
        places = ", ".join(self._endpoints)
        if spare < LAST and "ipc://" in places:
            raise RunError(f"{places}: too few file descriptors are left; allow more (ulimit -n)")
        if spare < FEW and not self._has_warned:
            log.warning("%s: file descriptors run short; allow more (ulimit -n)", places)
        self._has_warned = spare < FEW


def spare_files() -> int:
    """How many files this process may still open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return FEW
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:  # not even for looking
        return 0
