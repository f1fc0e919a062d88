"""ZeroMQ sockets with bounded queues, bounded messages and no waiting on close."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from typing import Any, TypeVar

import zmq

from pipeline.errors import ConfigError, RunError
from pipeline.transport.access.socket_files import IN_USE, SocketFile, free_path
from pipeline.transport.address import Address
from pipeline.transport.zmq.keys import Security, check_peers, protect

FEW_FILES = 16
LAST_FILES = 6
"""Descriptors kept for the connections that arrive between two checks."""

CHECK_S = 0.05

log = logging.getLogger(__name__)


class ConnectionLimit:
    """Checks the file descriptors left for connections to the endpoints that a socket has bound.

    Each connection uses one or two. If none is left for the next, it waits over TCP until there is
    one, but over ipc libzmq 4.3.5 aborts the process (`ipc_listener.cpp` regards that as
    impossible). No setting of libzmq refuses connections, so the socket's owner ends with an error
    before that.
    """

    def __init__(self) -> None:
        self._endpoints: list[str] = []
        self._has_warned = False
        self._next_check_s = 0.0

    def add(self, endpoint: str) -> None:
        """Add an endpoint that the socket has bound."""
        self._endpoints.append(endpoint)

    def check(self) -> None:
        """Check, at most once per `CHECK_S`, and warn once if few descriptors are left.

        Raises `RunError` if fewer than `LAST_FILES` are left.
        """
        now_s = time.monotonic()
        if not self._endpoints or now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_S
        spare = spare_files()
        places = ", ".join(self._endpoints)
        if spare < LAST_FILES and "ipc://" in places:
            raise RunError(
                f"{places}: too few file descriptors are left; raise the limit (ulimit -n)"
            )
        if spare < FEW_FILES and not self._has_warned:
            log.warning("%s: file descriptors run short; raise the limit (ulimit -n)", places)
        self._has_warned = spare < FEW_FILES


def spare_files() -> int:
    """How many more files this process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return FEW_FILES
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:  # not even one to count them
        return 0


QUEUED = 2
"""Messages that may wait for one subscriber, per stream; further ones are dropped."""

# TCP keepalive detects within 4 s that a peer's machine or network is gone. ZeroMQ's heartbeats are
# off: if one is due on a connection that broke while its queue was full, libzmq 4.3.5 aborts the
# process (out_event asserts !_io_error).
IDLE_S, PROBE_S, PROBES = 1, 1, 3
# TCP doubles the pauses between its retries. After a while a new connection is faster, and discards
# the old images that waited in the first one.
UNACKNOWLEDGED_MS = 3000
CONNECT_MS = 2000
RECONNECT_MS = (100, 1000)  # the first wait and the longest
HANDSHAKE_MS = 5000
FILES_NEEDED = 16  # by a context with a socket, two connections and the check of peers
LOCAL_BUFFER = 4 << 20  # a whole raw image
REMOTE_BUFFER = 256 << 10  # small, because images in it grow old on a slow link

Context = zmq.Context[zmq.Socket[bytes]]
E_ = TypeVar("E_", bound="Endpoint")

_READABLE = int(zmq.POLLIN)  # an int, because arithmetic on enumerations is slow
_WHY = {
    errno.EADDRINUSE: IN_USE,
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.ENODEV: "is not an address or interface of this machine",
    errno.EACCES: "requires rights that this user does not have",
    errno.ENOENT: "is in a folder that does not exist",
}


class Endpoint:
    """One socket with a context of its own, used by one thread at a time.

    Raises `RunError` if too few file descriptors are left, `ConfigError` if an address cannot be
    used.
    """

    def __init__(self, kind: int, security: Security, max_part_bytes: int, streams: int) -> None:
        self._security = security
        self._context = new_context()
        self._peer_check: Any = None
        self.socket = self._context.socket(kind)
        self.addresses: list[Address] = []
        self._opened: list[tuple[str, bool]] = []
        self._files: list[SocketFile] = []
        queued = QUEUED * streams
        self.socket.sndhwm = self.socket.rcvhwm = queued
        self.socket.maxmsgsize = max_part_bytes
        set_common_options(self.socket)
        # A publisher that connects to its subscriber queues nothing while that is away. Otherwise
        # the first message after its return would be an old one.
        self.socket.immediate = kind == zmq.XPUB
        self.connections = ConnectionLimit()

    def open(self, address: Address, bind: bool) -> None:
        """Bind or connect; a socket may have several addresses, all with the same security.

        An address that is open already is ignored; it may name another camera.
        """
        if any((address.endpoint, bind) == known for known in self._opened):
            return
        buffer = LOCAL_BUFFER if address.is_local else REMOTE_BUFFER
        self.socket.sndbuf = self.socket.rcvbuf = buffer
        # Only if the address is IPv6: a name with both kinds of address would be resolved to one of
        # them, while the other end listens on the other.
        self.socket.ipv6 = address.host.startswith("[")
        protect(self.socket, address, self._security, bind)
        if bind and self._security.keys is not None and self._peer_check is None:
            self._peer_check = check_peers(self._context, self._security.peers)
        if not bind:
            _check_destination(address)
        try:
            if bind:
                self._bind(address)
            else:
                self.socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"address '{address.text}': {_why(error)}") from error
        self.addresses.append(address)
        self._opened.append((address.endpoint, bind))
        if bind:
            self.connections.add(self.last_endpoint())

    def _bind(self, address: Address) -> None:
        """Bind; a path must be free, because libzmq would replace its file, and becomes private."""
        path = address.endpoint.removeprefix("ipc://")
        if path == address.endpoint or path.startswith("@"):
            self.socket.bind(address.endpoint)
            return
        with free_path(path, address):
            self.socket.bind(address.endpoint)
            self._files.append(SocketFile(path, private=not self._security.insecure))

    def last_endpoint(self) -> str:
        """The endpoint that was opened last, with its real port."""
        return last_endpoint(self.socket)

    def close(self, flush_s: float = 0.0) -> None:
        """Close; messages that cannot be sent within `flush_s` are dropped. Idempotent."""
        if self.socket.closed:
            return
        for file in self._files:
            file.remove()
        self.socket.close(int(flush_s * 1000))
        if self._peer_check is not None:
            self._peer_check.stop()
        self._context.term()

    def __enter__(self: E_) -> E_:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def new_context() -> Context:
    """A context for one socket and its authentication.

    Raises `RunError` if too few file descriptors are left, because libzmq would abort.
    """
    spare: list[int] = []
    try:
        for _ in range(FILES_NEEDED):
            file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            spare.append(file)
    except OSError as error:
        raise RunError(
            f"sockets: {FILES_NEEDED} file descriptors are needed: {error.strerror}; "
            f"raise the limit (ulimit -n)"
        ) from error
    finally:
        for file in spare:
            os.close(file)
    return zmq.Context()


def set_common_options(socket: zmq.Socket[bytes]) -> None:
    """Set the options that all kinds of sockets share."""
    socket.linger = 0
    socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS
    socket.handshake_ivl, socket.connect_timeout = HANDSHAKE_MS, CONNECT_MS
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl = IDLE_S, PROBE_S
    socket.tcp_keepalive_cnt = PROBES
    socket.tcp_maxrt = UNACKNOWLEDGED_MS


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits; much faster than a `recv` that fails."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


def last_endpoint(socket: zmq.Socket[bytes]) -> str:
    """The endpoint that a socket bound or connected last, with its real port."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bytes(endpoint).rstrip(b"\0").decode()


def _check_destination(address: Address) -> None:
    """Raise `ConfigError` if an address to connect to has no definite host and port."""
    if address.host == "*" or address.endpoint.endswith(":0"):
        raise ConfigError(
            f"address '{address.text}': can only be bound, as it has no definite host and port; "
            f"name the host and port of the other end, or append ?bind to bind here"
        )


def _why(error: zmq.ZMQError) -> str:
    return _WHY.get(error.errno or 0) or f"cannot be used: {error.strerror}"


def peer_of(part: zmq.Frame) -> str:
    """The network address of a message's sender; over ipc it is localhost."""
    with contextlib.suppress(zmq.ZMQError):
        peer = str(part.get("Peer-Address"))
        return peer if not peer.startswith("localhost:") else "localhost"  # :user:group:process
    return "localhost"
