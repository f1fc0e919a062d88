"""Authenticates, numbers and limits the connections of a socket, in a thread of its own.

libzmq asks here about each connection (RFC 27/ZAP) and reports its end (its monitor).
"""

from __future__ import annotations

import logging
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils import z85

from pipeline.process.memory import private_bytes, trim
from pipeline.transport.access.local_users import is_own
from pipeline.transport.zmq.keys import DOMAIN
from pipeline.transport.zmq.peers.descriptors import (
    close_connection,
    peer_at,
    received_bytes,
    source_of,
    spare_files,
    unread_bytes,
)
from pipeline.transport.zmq.peers.listener import Listener
from pipeline.transport.zmq.stream_counts import LogLimit

MAX_CONNECTIONS = 256
MAX_SILENT = 32
"""Connections that have sent no message yet."""
SPARE_FILES = 16
"""File descriptors kept for the rest of the process."""

_ZAP = "inproc://zeromq.zap.01"
_EVENTS = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)
HANDSHAKE_MS = 5000  # libzmq closes a connection whose handshake takes longer
ADMITTED_SHARE = 0.5
"""How many of many new connections are admitted; the others leave the queue at once."""
PENALTY_S = 1.0  # how long a source may not connect after it was disconnected
MAX_UNREAD = 65536
"""Bytes that wait for a publisher, whose subscribers send little."""
PAUSE_S = 0.01  # after such an attempt, so that many of them cost little
MAX_GROWTH = 128 << 20
"""Bytes that a process may grow by before its connections are looked at."""
SAMPLES, MUCH_UNREAD = 50, 4096
SOON_MS, WATCH_MS = 10, 100
_EVENT = struct.Struct("=hi")  # what happened, and the file descriptor

log = logging.getLogger(__name__)


@dataclass
class _Accepted:
    """A connection that libzmq has accepted, by its source: a network address or a process."""

    source: str
    number: int
    accepted_s: float = field(default_factory=time.monotonic)
    has_sent: bool = False
    is_refused: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether it may not have finished its handshake."""
        return not self.has_sent and time.monotonic() - self.accepted_s < HANDSHAKE_MS / 1000


class Connections:
    """Decides who may connect to a socket.

    - `keys`: the public keys that are let in; None: no keys are used
    - `numbered`: give each connection a number of its own as `User-Id` of its messages, instead of
      its key
    - `own_user`: let in only processes of this user and root, as far as the system knows the user

    At most `MAX_CONNECTIONS` may be open, and only as many as leave `SPARE_FILES` file descriptors;
    half of them from one network address or process. Further ones are closed at once. If there is
    no room, the one that has sent least is closed for some of the next, unless a message has come
    from it (see `note_message`), so that those that never finish their handshake keep nobody out.
    Create it before the socket is bound or connected, and `stop` it before the socket is closed.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        keys: Collection[bytes] | None,
        *,
        numbered: bool,
        own_user: bool = False,
    ) -> None:
        self._socket = socket
        self._keys = keys
        self._numbered = numbered
        self._watch_again_s = 0.0
        self._base_bytes = private_bytes()
        self._own_user = own_user
        self._number = 0
        self._is_bound = False
        self._accepted: dict[int, _Accepted] = {}
        self._listeners: list[Listener] = []
        self._new: list[Listener] = []
        self._is_admitting = False
        self._paused_until_s = 0.0
        self._banned: dict[str, float] = {}  # until when, by source
        self.is_crowded = False
        """Whether connections that have sent no message may be closed."""
        self._random = random.SystemRandom()
        self._log_limit = LogLimit()
        socket.zap_domain = DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP)
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Admit nobody any more."""
        self._socket.disable_monitor()
        self._thread.join()

    def is_open(self, user: str, fd: int) -> bool:
        """Whether a connection is open, by the `User-Id` and the descriptor of its messages.

        Connections and their `User-Id` are numbered in one sequence: one with a later number than
        this `User-Id` is another connection with the same descriptor.
        """
        accepted = self._accepted.get(fd)
        return not self._is_bound or (accepted is not None and accepted.number < int(user))

    def note_message(self, message: zmq.Frame) -> None:
        """Note that a message of a connection has come; for the thread that uses the socket."""
        accepted = self._accepted.get(int(message.get(zmq.SRCFD)))
        if accepted is not None:
            accepted.has_sent = True

    def disconnect(self, message: zmq.Frame, why: str) -> None:
        """Close the connection that a message came from; for the thread that uses the socket."""
        peer = str(message.get("Peer-Address"))
        self._ban(source_of(peer), why)
        close_connection(int(message.get(zmq.SRCFD)), peer)

    def _ban(self, source: str, why: str) -> None:
        now_s = time.monotonic()
        banned = {other: end_s for other, end_s in self._banned.items() if end_s > now_s}
        self._banned = {**banned, source: now_s + PENALTY_S}
        self._warn("disconnected %s: it %s", source, why)

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            for listener in [*self._new, *self._listeners]:
                listener.close()
            self._monitor.close(0)
            self._zap.close(0)

    def _step(self) -> bool:
        """Wait for something to happen, and handle it; False at the end."""
        is_paused = self._is_admitting or time.monotonic() < self._paused_until_s
        waiting = [] if is_paused else self._listeners
        sockets: list[Any] = [self._monitor, self._zap, *waiting]
        wait_ms = SOON_MS if is_paused or self._new else -1
        if self._numbered and self._accepted:
            self._watch()
            wait_ms = wait_ms if wait_ms > 0 else WATCH_MS
        ready = zmq.zmq_poll([(one, zmq.POLLIN) for one in sockets], wait_ms)
        if not ready:
            self._is_admitting = False  # the new connection has ended
        request = self._zap.recv_multipart() if self._zap.poll(0) else None
        while self._monitor.poll(0):
            event, *_ = self._monitor.recv_multipart()
            if not self._note(*_EVENT.unpack(event)):
                return False
        if request is not None:  # after the connection itself was reported
            self._zap.send_multipart(self._answer(request))
        for listener in tuple(self._new):
            self._take_over(listener)
        for listener in waiting:
            if any(one in {listener, listener.fileno()} for one, _ in ready):
                self._decide(listener)
        return True

    def _count_up(self) -> int:
        self._number += 1
        return self._number

    def _is_banned(self, source: str) -> bool:
        return self._banned.get(source, 0.0) > time.monotonic()

    def _watch(self) -> None:
        """Close connections that send more than is read, or a message that does not end.

        A publisher's thread may be busy in libzmq with such a connection, so that it cannot do it.
        """
        now_s = time.monotonic()
        if now_s < self._watch_again_s:
            return
        self._watch_again_s = now_s + WATCH_MS / 1000
        self._base_bytes = min(self._base_bytes, private_bytes())
        if private_bytes() - self._base_bytes > MAX_GROWTH:
            self._relieve()
        for fd, one in tuple(self._accepted.items()):
            if not one.is_refused and unread_bytes(fd) > MAX_UNREAD:
                self._ban(one.source, "sends more than is read")
                self._close(fd)

    def _relieve(self) -> None:
        """Close the connection that sends most, because libzmq collects a message in memory."""
        sending: Counter[int] = Counter()
        for _ in range(SAMPLES):
            sending.update(fd for fd in self._accepted if unread_bytes(fd) > MUCH_UNREAD)
            self._monitor.poll(1)
        for fd, _ in sending.most_common(1):
            self._ban(self._accepted[fd].source, "sends a message without an end")
            self._close(fd)
        trim()
        if not sending:  # something else has grown
            self._base_bytes = private_bytes()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """Whether a connection is let in, and the `User-Id` of its messages."""
        version, number, _, address, _, mechanism, *credentials = request
        peer = address.decode()
        if self._is_banned(source_of(peer)):  # a temporary error, after which it tries again
            return [version, number, b"300", b"", b"", b""]
        user = str(self._count_up()).encode()
        if mechanism == b"CURVE" or self._keys is not None:
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
            if self._keys is None or key not in self._keys:
                self._warn("refused %s: its key %s is unknown", peer, key.decode())
                return [version, number, b"400", b"unknown key", b"", b""]
            if not self._numbered:
                user = key
        for one in self._accepted.values():  # over ipc the address is that of a process
            one.has_sent |= one.source == peer
        return [version, number, b"200", b"OK", user, b""]

    def _note(self, event: int, fd: int) -> bool:
        """Note what became of a connection or a listening socket; False at the end."""
        if event == zmq.EVENT_MONITOR_STOPPED:
            return False
        if event == zmq.EVENT_LISTENING:
            self._is_bound = True
            with suppress(OSError):
                self._new.append(Listener(fd))
            return True
        self._is_admitting = False
        if event == zmq.EVENT_DISCONNECTED:
            self._accepted.pop(fd, None)
        elif event == zmq.EVENT_ACCEPTED:
            self._accepted[fd] = new = _Accepted(source_of(peer_at(fd)), self._count_up())
            if self._is_banned(new.source):
                self._close(fd)
                self._paused_until_s = time.monotonic() + PAUSE_S
            elif self._count(new.source) > self._room() // 2:
                self._close(fd)
                self._warn(
                    "refused %s: it has half of all connections, and %s",
                    new.source,
                    self._why_full(),
                )
            elif self._own_user and not is_own(fd):
                self._close(fd)  # before its handshake is answered, so that it gets no message
                if new.source:  # otherwise it has ended already
                    self._warn(
                        "refused a connection of another user (%s): only this user and root may "
                        "connect; --insecure lets all users in",
                        new.source,
                    )
        return True

    def _take_over(self, listener: Listener) -> None:
        if listener.take_over():
            self._listeners.append(listener)
        elif listener.is_given_up:
            listener.close()
        else:
            return  # libzmq does not wait for connections yet
        self._new.remove(listener)

    def _decide(self, listener: Listener) -> None:
        """Admit a new connection, make room for it, or turn it away."""
        silent = [fd for fd, one in self._accepted.items() if one.is_silent]
        has_room = len(self._accepted) < self._room() and len(silent) < MAX_SILENT
        self.is_crowded = not has_room
        if has_room:
            listener.admit()
            self._is_admitting = True
        elif silent and self._random.random() < ADMITTED_SHARE:
            self._close(self._least_useful(silent))
            self._is_admitting = True  # once that has gone
        elif listener.turn_away() and not silent:
            self._warn("refused a connection: %s", self._why_full())

    def _least_useful(self, silent: list[int]) -> int:
        """Of the source that has most of these connections, the one that has sent least."""
        sources = Counter(self._accepted[fd].source for fd in silent)
        most = max(sources, key=sources.__getitem__)
        candidates = [fd for fd in silent if self._accepted[fd].source == most]
        self._random.shuffle(candidates)
        return min(candidates, key=received_bytes)

    def _why_full(self) -> str:
        if self._room() < MAX_CONNECTIONS:
            return "too few file descriptors are left; raise the limit (ulimit -n)"
        return f"{len(self._accepted)} connections are open"

    def _room(self) -> int:
        """How many connections there may be, with those that are open."""
        spare = spare_files() - SPARE_FILES
        return min(MAX_CONNECTIONS, max(len(self._accepted) + spare, 0))

    def _count(self, source: str) -> int:
        return sum(one.source == source and not one.is_refused for one in self._accepted.values())

    def _close(self, fd: int) -> None:
        self._accepted[fd].is_refused = True
        close_connection(fd)

    def _warn(self, text: str, *arguments: object) -> None:
        if self._log_limit.allows(text):
            log.warning(text, *arguments)
