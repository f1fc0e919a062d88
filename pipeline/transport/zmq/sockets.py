"""ZeroMQ sockets as both ends use them: bounded queues, bounded messages, no waiting at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket as unix
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

import zmq

from pipeline.errors import ConfigError, RunError
from pipeline.transport.address import Address
from pipeline.transport.zmq.connection_limit import Door
from pipeline.transport.zmq.keys import Doorkeeper, Security, protect

QUEUED = 2
"""Messages that may wait for one subscriber, per stream; further ones are dropped there."""

# A peer whose machine or cable is gone is noticed by the kernel's own heartbeats, within 4 s. Those
# of ZeroMQ are left off: where they fall due on a connection that has broken while its queue was
# full, libzmq 4.3.5 aborts the process (out_event asserts !_io_error).
IDLE_S, PROBE_S, PROBES = 1, 1, 3
# The pauses between TCP's own attempts double: after a while a new connection is there earlier, and
# the pictures that waited in the old one are gone with it.
UNACKNOWLEDGED_MS = 3000
CONNECT_MS = 2000
RECONNECT_MS = (100, 1000)  # the first wait and the longest
HANDSHAKE_MS = 5000
FILES_NEEDED = 16  # by a context with a socket, a connection or two, and the keeper of its door
LOCAL_BUFFER = 4 << 20  # a whole raw picture, so that it passes without a wait between
REMOTE_BUFFER = 256 << 10  # little, because what waits in it grows old on a slow link

Context = zmq.Context[zmq.Socket[bytes]]
E_ = TypeVar("E_", bound="Endpoint")

_READABLE = int(zmq.POLLIN)  # plain, because arithmetic on enumerations takes its time
_WHY = {
    errno.EADDRINUSE: "is in use by another process",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.ENODEV: "is not an address or interface of this machine",
    errno.EACCES: "may not be used by this user",
    errno.ENOENT: "lies in a folder that does not exist",
}


class Endpoint:
    """One socket with a context of its own, used by one thread at a time.

    Raises `RunError` where there is nothing left to make one of, and `ConfigError` where an address
    cannot be used.
    """

    def __init__(self, kind: int, security: Security, max_part_bytes: int, streams: int) -> None:
        self._security = security
        self._context = new_context()
        self._doorkeeper: Doorkeeper | None = None
        self.socket = self._context.socket(kind)
        self.addresses: list[Address] = []
        self._opened: list[tuple[str, bool]] = []
        queued = QUEUED * streams
        self.socket.sndhwm = self.socket.rcvhwm = queued
        self.socket.maxmsgsize = max_part_bytes
        set_common_options(self.socket)
        # A publisher that goes to its subscriber keeps nothing for one that is not there; else the
        # first that came at its return would be a message of the time when it left.
        self.socket.immediate = kind == zmq.XPUB
        self.door = Door()

    def open(self, address: Address, bind: bool) -> None:
        """Bind or connect; a socket may have several addresses, all with the same security.

        One that it has already is passed over, where another camera is meant by it.
        """
        if any((address.endpoint, bind) == known for known in self._opened):
            return
        buffer = LOCAL_BUFFER if address.is_local else REMOTE_BUFFER
        self.socket.sndbuf = self.socket.rcvbuf = buffer
        # Only where it is asked for: a name that has both kinds of address would be looked for
        # under the one alone, while the other end listens on the other.
        self.socket.ipv6 = address.host.startswith("[")
        protect(self.socket, address, self._security, bind)
        if bind and self._security.keys is not None and self._doorkeeper is None:
            self._doorkeeper = Doorkeeper(self._context, self._security.peers)
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
            self.door.add(self.last_endpoint())

    def _bind(self, address: Address) -> None:
        """Bind, and over ipc see first that this takes nobody's place: libzmq would let it."""
        path = address.endpoint.removeprefix("ipc://")
        if path == address.endpoint or path.startswith("@"):
            self.socket.bind(address.endpoint)
            return
        with _alone_at(path, address):
            check_ipc_path(path, address)
            self.socket.bind(address.endpoint)

    def last_endpoint(self) -> str:
        """The endpoint that was opened last, with its real port."""
        return last_endpoint(self.socket)

    def close(self, flush_s: float = 0.0) -> None:
        """Close; what cannot be sent within `flush_s` is dropped. Calling it again does nothing."""
        if self.socket.closed:
            return
        self.socket.close(int(flush_s * 1000))
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.term()

    def __enter__(self: E_) -> E_:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def new_context() -> Context:
    """A context for one socket and those of its helpers.

    Raises `RunError` where too few file descriptors are left, for which libzmq would abort.
    """
    spare: list[int] = []
    try:
        for _ in range(FILES_NEEDED):
            file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            spare.append(file)
    except OSError as error:
        raise RunError(
            f"sockets: {FILES_NEEDED} file descriptors are needed: {error.strerror}; "
            f"allow more (ulimit -n)"
        ) from error
    finally:
        for file in spare:
            os.close(file)
    return zmq.Context()


def set_common_options(socket: zmq.Socket[bytes]) -> None:
    """What every socket here has, whatever its kind."""
    socket.linger = 0
    socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS
    socket.handshake_ivl, socket.connect_timeout = HANDSHAKE_MS, CONNECT_MS
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl = IDLE_S, PROBE_S
    socket.tcp_keepalive_cnt = PROBES
    socket.tcp_maxrt = UNACKNOWLEDGED_MS


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits; much cheaper than a `recv` that fails."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


def last_endpoint(socket: zmq.Socket[bytes]) -> str:
    """The endpoint that a socket has bound or connected last, with its real port."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bytes(endpoint).rstrip(b"\0").decode()


def _check_destination(address: Address) -> None:
    """An address to wait at may leave open which interface and port; one to go to may not."""
    if address.host == "*" or address.endpoint.endswith(":0"):
        raise ConfigError(
            f"address '{address.text}': says where to wait and not where to go; name the other "
            f"end's machine and port, or wait there for it with ?bind at the end"
        )


@contextlib.contextmanager
def _alone_at(path: str, address: Address) -> Iterator[None]:
    """Keeps two that start at once from each taking the path for free.

    Raises `ConfigError` where another is just binding it. The lock is a name of the kernel's, which
    ends with its process; systems without such names do without.
    """
    digest = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()
    with contextlib.closing(unix.socket(unix.AF_UNIX)) as lock:
        try:
            lock.bind(f"\0vision-bind-{digest[:32]}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"address '{address.text}': {_WHY[error.errno]}") from error
        yield


def check_ipc_path(path: str, address: Address) -> None:
    """Binding removes what lies at the path, so make sure that this is nothing of value.

    Raises `ConfigError` where it is another's socket in use, or no socket.
    """
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return  # binding will say why, if it matters
    if not is_socket:
        raise ConfigError(f"address '{address.text}': there is a file that is no socket")
    with contextlib.closing(unix.socket(unix.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # of one that stands, with many who wait for it
        except OSError:
            return  # left behind by a process that died
    raise ConfigError(f"address '{address.text}': {_WHY[errno.EADDRINUSE]}")


def _why(error: zmq.ZMQError) -> str:
    return _WHY.get(error.errno or 0) or f"cannot be used: {error.strerror}"


def peer_of(part: zmq.Frame) -> str:
    """The network address of who sent it; over ipc that is localhost."""
    with contextlib.suppress(zmq.ZMQError):
        peer = str(part.get("Peer-Address"))
        return peer if not peer.startswith("localhost:") else "localhost"  # :user:group:process
    return "localhost"
