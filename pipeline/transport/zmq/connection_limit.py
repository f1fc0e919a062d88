"""Limits how many file descriptors new connections may use.

Each connection uses one or two. If none is left for the next, it waits over TCP until there is one,
but over ipc libzmq 4.3.5 aborts the process (`ipc_listener.cpp` regards that as impossible). No
setting of libzmq refuses connections, so the socket's owner ends with an error before that.
"""

from __future__ import annotations

import logging
import os
import resource
import time

from pipeline.errors import RunError

FEW = 16
LAST = 6
"""Descriptors kept for the connections that arrive between two checks."""

CHECK_S = 0.05

log = logging.getLogger(__name__)


class ConnectionLimit:
    """Checks the file descriptors left for connections to the endpoints that a socket has bound."""

    def __init__(self) -> None:
        self._endpoints: list[str] = []
        self._has_warned = False
        self._next_check_s = 0.0

    def add(self, endpoint: str) -> None:
        """Add an endpoint that the socket has bound."""
        self._endpoints.append(endpoint)

    def check(self) -> None:
        """Check, at most once per `CHECK_S`, and warn once if few descriptors are left.

        Raises `RunError` if fewer than `LAST` are left.
        """
        now_s = time.monotonic()
        if not self._endpoints or now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_S
        spare = spare_files()
        places = ", ".join(self._endpoints)
        if spare < LAST and "ipc://" in places:
            raise RunError(
                f"{places}: too few file descriptors are left; raise the limit (ulimit -n)"
            )
        if spare < FEW and not self._has_warned:
            log.warning("%s: file descriptors run short; raise the limit (ulimit -n)", places)
        self._has_warned = spare < FEW


def spare_files() -> int:
    """How many more files this process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return FEW
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:  # not even one to count them
        return 0
