"""The short way for what tells of pictures in shared memory: straight into the other process.

On its way through ZeroMQ a message wakes three threads one after the other, which takes longer than
copying the picture did. A line is a socket of the kernel's own, one for each reader of a ring, and
wakes nobody but the reader. It is found by the ring's id in a message that came through ZeroMQ, and
only within one machine and user. Where it cannot be had, messages go on to come through ZeroMQ.

Nobody waits on a line: what a slow reader has no room for is dropped, as it is by ZeroMQ. Lines end
with the process at either end, and their names (Linux's abstract ones) leave nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

MAX_LINES = 64
MAX_PACKET = 8192
BUFFER = 8192  # room for about ten messages, of which a ring does not hold more pictures anyway
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_LENGTHS = struct.Struct("<2H")  # of the topic and of the header; the rest is the payload


class LineServer:
    """The writer's end: sends to every reader of a ring."""

    def __init__(self, ring: str) -> None:
        self._lines: list[socket.socket] = []
        self._door: socket.socket | None = None
        with contextlib.suppress(OSError):  # then there are none, and ZeroMQ serves all
            self._door = _socket()
            self._door.bind(_name(ring))
            self._door.listen(MAX_LINES)

    def __len__(self) -> int:
        return len(self._lines)

    def accept(self) -> None:
        """Let in who has come."""
        while self._door is not None and len(self._lines) < MAX_LINES:
            try:
                line, _ = self._door.accept()
            except OSError:  # nobody is there, or no file descriptor is left for anybody
                return
            if _is_own(line):
                line.setblocking(False)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                self._lines.append(line)
            else:
                line.close()

    def send(self, topic: bytes, header: bytes, payload: bytes) -> None:
        """Send to all that have room; those that have ended are let go."""
        packet = _LENGTHS.pack(len(topic), len(header)) + topic + header + payload
        for line in tuple(self._lines):
            if not _is_sent(line, packet):
                self._lines.remove(line)
                line.close()

    def close(self) -> None:
        """End all lines; calling it again does nothing."""
        for line in self._lines:
            line.close()
        self._lines.clear()
        if self._door is not None:
            self._door.close()


class Line:
    """The reader's end of one line."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.is_open = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Sequence[bytes | memoryview] | None:
        """The parts of the next message, unchecked; None where none waits or the line has ended."""
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
        """End it; calling it again does nothing."""
        self.is_open = False
        self._socket.close()


def connect(ring: str) -> Line | None:
    """A line to the writer of a ring; None where there is none to be had."""
    with contextlib.suppress(OSError):
        connected = _socket()
        try:
            connected.connect(_name(ring))
            if _is_own(connected):
                return Line(connected)
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


def _is_sent(line: socket.socket, packet: bytes) -> bool:
    """Whether the line goes on: one that is full does, and its reader sees that it has lost one."""
    try:
        line.send(packet, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _is_own(line: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())
