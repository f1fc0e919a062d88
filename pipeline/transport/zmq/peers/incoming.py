"""Limits the memory of messages that are on their way into this process.

ZeroMQ collects all parts of a message before the reader gets the first, and nothing in it limits
their number; it also holds some messages of each connection. So a thread watches how much this
process has grown since it began to receive. Beyond the limit, it ends the connection that has
brought the most without completing a message; its peer may connect again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import zmq

from pipeline.process.memory import private_bytes, trim
from pipeline.transport.wire.schema import MAX_PARTS
from pipeline.transport.zmq.peers.descriptors import borrowed, close_connection, received_bytes
from pipeline.transport.zmq.sockets import Endpoint
from pipeline.transport.zmq.stream_counts import LogLimit

CHECK_S = 0.1
HASTE_S = 0.02  # between checks once half of the limit is used
LEAST_BYTES = 256 << 20
"""Growth that the models, encoders and outputs of a process may cause."""
MAX_DISCARDED = 100_000
"""Parts of one message that are read to get to the next one."""
PATIENCE = 100
"""Checks in a row beyond the limit; something else has grown if connections bring little then."""
EFFECT_CHECKS = 25
"""Checks until the memory of ended connections is free; meanwhile those with little stay."""
FEW_BYTES = 65536
"""Little, unread."""
UNKNOWN_BYTES = FEW_BYTES + 1
"""What counts for a Unix socket that has not completed its message; the kernel does not tell."""

log = logging.getLogger(__name__)


_Key = tuple[int, int]  # the file descriptor and the inode of a connection


class EndlessMessage(Exception):  # noqa: N818 - a signal to open the socket again, not a fault
    """A message has more parts than can be read in reasonable time."""


@dataclass(slots=True)
class _Connection:
    """The bytes received and messages completed when it last completed a message."""

    received: int
    completed: int


class IncomingLimit:
    """Ends connections of a socket while this process has grown by more than `max_bytes`.

    Systems without /proc are not watched.
    """

    def __init__(self, endpoint: Endpoint, max_bytes: int) -> None:
        self._completed: Counter[int] = Counter()  # messages that were read, by file descriptor
        self._log_limit = LogLimit()
        self._endpoints = endpoint.endpoints
        self._places = {_place(at) for at in endpoint.endpoints}
        self._max_bytes = max(max_bytes, LEAST_BYTES)
        self._base_bytes = private_bytes()
        self._last_bytes = 0
        self._beyond = self._ended_at = 0
        self._known: dict[_Key, _Connection] = {}
        self._ended: set[_Key] = set()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if self._base_bytes:
            arguments = weakref.ref(self), self._stopped
            self._thread = threading.Thread(
                target=_watch, args=arguments, name="incoming", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def read(self, source: zmq.Socket[bytes]) -> tuple[list[zmq.Frame], int]:
        """The parts of the next message, and the file descriptor of its connection.

        If there are more than `MAX_PARTS`, one more is returned and the connection is ended. Raises
        `EndlessMessage` if there are too many to read.
        """
        parts = [part := source.recv(copy=False)]
        file, discarded = int(part.get(zmq.SRCFD)), 0
        while part.more:
            part = source.recv(copy=False)
            if len(parts) <= MAX_PARTS:
                parts.append(part)
            elif (discarded := discarded + 1) > MAX_DISCARDED:
                raise EndlessMessage
        if len(parts) > MAX_PARTS:
            close_connection(file)
        self._completed[file] += 1
        return parts, file

    def check(self) -> float:
        """End the connections that hold most if this process has grown too much.

        Returns how much of the limit is used.
        """
        unread, before_bytes = self._unread(), self._last_bytes
        self._last_bytes = grown_bytes = self._grown_bytes()
        if 2 * grown_bytes - before_bytes > self._max_bytes:  # or it will be at the next check
            trim()
            self._last_bytes = grown_bytes = self._grown_bytes()
            if 2 * grown_bytes - before_bytes > self._max_bytes:
                self._beyond += 1
                self._relieve(unread)
                return 1.0
        self._beyond = self._ended_at = 0
        return grown_bytes / self._max_bytes

    def _grown_bytes(self) -> int:
        private = private_bytes()
        self._base_bytes = min(self._base_bytes, private)
        return private - self._base_bytes

    def _relieve(self, unread: Mapping[_Key, int]) -> None:
        """End the connections with most unread bytes, one more for each check in a row.

        Their memory is free a moment later.
        """
        if self._beyond > PATIENCE and max(unread.values(), default=0) <= FEW_BYTES:
            self._base_bytes = private_bytes()
            self._beyond = self._ended_at = 0
            return
        self._ended &= unread.keys()
        left = {key: nbytes for key, nbytes in unread.items() if key not in self._ended}
        many = {key: nbytes for key, nbytes in left.items() if nbytes > FEW_BYTES}
        if not many and self._beyond - self._ended_at > EFFECT_CHECKS:
            many = left
        for key in sorted(many, key=many.__getitem__)[-self._beyond :]:
            close_connection(key[0])
            self._ended.add(key)
            self._ended_at = self._beyond
        if many and self._log_limit.allows("ended"):
            log.warning(
                "%s: received messages take more than %d MB; connections are ended",
                *(", ".join(self._endpoints), self._max_bytes >> 20),
            )

    def _unread(self) -> dict[_Key, int]:
        """By connection, the bytes that came since it last completed a message."""
        known, unread = self._known, {}
        self._known = {}
        for file, inode in _open_sockets():
            with contextlib.suppress(OSError), borrowed(file) as connection:
                if not self._is_ours(connection):
                    continue
                key, completed = (file, inode), self._completed[file]
                received = received_bytes(file) or UNKNOWN_BYTES
                before = known.get(key)
                if before is None or before.completed != completed:
                    before = _Connection(received if before else 0, completed)
                self._known[key] = before
                unread[key] = received - before.received
        return unread

    def _is_ours(self, connection: socket.socket) -> bool:
        """Whether a socket is a connection of this endpoint, by the address at either end."""
        if connection.type != socket.SOCK_STREAM:
            return False
        peer = connection.getpeername()  # fails if it is not connected
        return not self._places.isdisjoint({_name(connection.getsockname()), _name(peer)})


def _watch(limit: weakref.ref[IncomingLimit], stopped: threading.Event) -> None:
    wait_s = CHECK_S
    while not stopped.wait(wait_s):
        found = limit()
        if found is None:
            return
        wait_s = HASTE_S if found.check() > 0.5 else CHECK_S
        del found  # so that it may end


def _open_sockets() -> list[tuple[int, int]]:
    """The sockets of this process: file descriptor and inode."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found.append((int(name), status.st_ino))
    return found


def _place(endpoint: str) -> str:
    """The port or the path of an endpoint of ZeroMQ."""
    kind, _, rest = endpoint.partition("://")
    return rest.rpartition(":")[2] if kind == "tcp" else rest


def _name(address: object) -> str:
    """The port or the path of an address of the kernel."""
    if isinstance(address, tuple):
        return str(address[1])
    return os.fsdecode(address).replace("\0", "@") if isinstance(address, (bytes, str)) else ""
