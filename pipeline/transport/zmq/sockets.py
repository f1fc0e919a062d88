"""ZeroMQ sockets with bounded queues, bounded messages and no waiting on close."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TypeVar

import zmq

from pipeline.errors import ConfigError, RunError
from pipeline.transport.access.local_users import KNOWS_USERS_OF_TCP, is_trusted, user_of
from pipeline.transport.access.socket_files import IN_USE, SocketFile, free_path
from pipeline.transport.address import Address
from pipeline.transport.wire.schema import WireError
from pipeline.transport.zmq.keys import Security, protect
from pipeline.transport.zmq.peers.connections import HANDSHAKE_MS, Connections

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
FILES_NEEDED = 16  # by a context with a socket, two connections and the check of peers
LOCAL_BUFFER = 4 << 20  # a whole raw image
REMOTE_BUFFER = 256 << 10  # small, because images in it grow old on a slow link

log = logging.getLogger(__name__)

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

    `endpoints` are those that were opened, with their real ports.

    Raises `RunError` if too few file descriptors are left, `ConfigError` if an address cannot be
    used.
    """

    def __init__(self, kind: int, security: Security, max_part_bytes: int, streams: int) -> None:
        self._security = security
        self._context = new_context()
        self._connections: Connections | None = None
        self.socket = self._context.socket(kind)
        self.addresses: list[Address] = []
        self.endpoints: list[str] = []
        self._opened: list[tuple[str, bool]] = []
        self._files: list[SocketFile] = []
        queued = QUEUED * streams
        self.socket.sndhwm = self.socket.rcvhwm = queued
        self.socket.maxmsgsize = max_part_bytes
        set_common_options(self.socket)
        # A publisher that connects to its subscriber queues nothing while that is away. Otherwise
        # the first message after its return would be an old one.
        self.socket.immediate = kind == zmq.XPUB

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
        if not bind:
            _check_destination(address)
        if self._connections is None:
            self._check_connections(address, bind)
        try:
            if bind:
                self._bind(address)
            else:
                self.socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"address '{address.text}': {_why(error)}") from error
        self.addresses.append(address)
        self._opened.append((address.endpoint, bind))
        self.endpoints.append(self.last_endpoint())

    def _check_connections(self, address: Address, bind: bool) -> None:
        keys = self._security.peers if self._security.keys is not None else None
        is_publisher = self.socket.type == zmq.XPUB
        own_user = keys is None and not self._security.insecure
        if own_user and address.host and not KNOWS_USERS_OF_TCP:
            log.warning(
                "%s: every user of this machine can connect to it; use zmq+ipc://NAME", address.text
            )
        if bind or is_publisher:
            self._connections = Connections(
                self._context, self.socket, keys, numbered=is_publisher, own_user=own_user and bind
            )

    def check_user(self, message: zmq.Frame) -> None:
        """Raise `WireError` if a message comes from another user than this one and root.

        `Connections` closes those that this end has accepted, but they may have sent before. It
        cannot refuse those that this end has made: libzmq may take an answer for an earlier one.
        """
        if self._security.keys is not None or self._security.insecure:
            return
        peer = str(message.get("Peer-Address"))
        if peer.startswith("localhost:"):
            user: int | None = int(peer.split(":")[1])
        elif KNOWS_USERS_OF_TCP:
            user = user_of(int(message.get(zmq.SRCFD)))
        else:
            return
        if not is_trusted(user):
            whose = "an unknown user" if user is None else f"user {user}"
            raise WireError(
                "user", f"{whose} is not trusted, only this user and root (--insecure trusts all)"
            )

    @property
    def is_bound(self) -> bool:
        """Whether this end accepts connections."""
        return any(bind for _, bind in self._opened)

    @property
    def is_crowded(self) -> bool:
        """Whether connections may be closed from which no message is noted."""
        return self._connections is not None and self._connections.is_crowded

    def is_open(self, user: str, fd: int) -> bool:
        """Whether a connection is open, by the `User-Id` and the descriptor of its messages."""
        return self._connections is None or self._connections.is_open(user, fd)

    def note_message(self, message: zmq.Frame) -> None:
        """Note that a message has come, so that its connection is kept."""
        if self._connections is not None:
            self._connections.note_message(message)

    def disconnect(self, message: zmq.Frame, why: str) -> None:
        """Close the connection that a message came from."""
        if self._connections is not None:
            self._connections.disconnect(message, why)

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
        if self._connections is not None:
            self._connections.stop()
        self.socket.close(int(flush_s * 1000))
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


def key_of(part: zmq.Frame) -> bytes:
    """The public key of a message's sender; empty if this end has connected to it."""
    with contextlib.suppress(zmq.ZMQError):
        return str(part.get("User-Id")).encode()
    return b""
