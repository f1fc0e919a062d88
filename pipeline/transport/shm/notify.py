"""Notifies a reader of a new frame in shared memory without going through ZeroMQ.

On its way through ZeroMQ a message wakes three threads one after the other, which takes longer than
copying the image. A notification goes through a Unix socket from process to process, one for each
reader of a ring, and wakes only the reader. The reader connects by the ring's id, which it finds in
a message from ZeroMQ; both processes must run on one machine as one user. If it cannot connect,
messages continue to come through ZeroMQ.

The writer never waits: notifications that a slow reader has no room for are dropped, as ZeroMQ
drops messages. Sockets close with the process at either end, and their names (Linux's abstract
ones) leave no file behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

MAX_READERS = 64
MAX_PACKET = 8192
BUFFER = 8192  # about ten messages; a ring has no more slots
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_LENGTHS = struct.Struct("<2H")  # of the topic and of the header; the rest is the payload


class NotifyServer:
    """The writer's end: notifies every connected reader of a ring."""

    def __init__(self, ring: str) -> None:
        self._readers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        with contextlib.suppress(OSError):  # without it, all messages go through ZeroMQ
            self._listener = _socket()
            self._listener.bind(_name(ring))
            self._listener.listen(MAX_READERS)

    def __len__(self) -> int:
        return len(self._readers)

    def accept(self) -> None:
        """Accept the readers that wait for a connection."""
        while self._listener is not None and len(self._readers) < MAX_READERS:
            try:
                reader, _ = self._listener.accept()
            except OSError:  # no reader waits, or no file descriptor is left
                return
            if _is_own(reader):
                reader.setblocking(False)
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                self._readers.append(reader)
            else:
                reader.close()

    def send(self, topic: bytes, header: bytes, payload: bytes) -> None:
        """Send to all readers that have room; close the connections of those that have ended."""
        packet = _LENGTHS.pack(len(topic), len(header)) + topic + header + payload
        for reader in tuple(self._readers):
            if not _is_sent(reader, packet):
                self._readers.remove(reader)
                reader.close()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        if self._listener is not None:
            self._listener.close()


class NotifyClient:
    """The reader's end of one connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.is_open = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Sequence[bytes | memoryview] | None:
        """The parts of the next message, unchecked; None if none waits or the writer has ended."""
        try:
            packet = self._socket.recv(MAX_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return None
        if len(packet) < _LENGTHS.size:
            return [packet]
        topic, header = _LENGTHS.unpack_from(packet)
        start, middle = _LENGTHS.size, _LENGTHS.size + topic
        return [packet[start:middle], packet[middle : middle + header], packet[middle + header :]]

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self.is_open = False
        self._socket.close()


def connect(ring: str) -> NotifyClient | None:
    """Connect to the writer of a ring; None if that is impossible."""
    with contextlib.suppress(OSError):
        connected = _socket()
        try:
            connected.connect(_name(ring))
            if _is_own(connected):
                return NotifyClient(connected)
        except OSError:
            pass
        connected.close()
    return None


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    return made


def _name(ring: str) -> str:
    return f"\0vision-{ring}"


def _is_sent(connection: socket.socket, packet: bytes) -> bool:
    """Send, or drop if the buffer is full; False if the other end has closed."""
    try:
        connection.send(packet, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())
