"""The rings of a publisher and of a subscriber, and the notifications of new frames in them.

On its way through ZeroMQ a message wakes three threads one after the other, which takes longer than
copying the image. A notification goes through a Unix socket from process to process, one for each
reader of a ring, and wakes only the reader. The reader connects by the ring's id, which it finds in
a message from ZeroMQ; both processes must run on one machine as one user. If it cannot connect,
messages continue to come through ZeroMQ.

A reader says the name under which it subscribes through ZeroMQ, so that the writer knows which
subscribers are notified. Those without a subscription are not accepted.

The writer never waits: notifications that a slow reader has no room for are dropped, as ZeroMQ
drops messages. Sockets close with the process at either end. The socket's file is beside the ring's
and as private, so that no other user can connect to it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Collection, Sequence

from pipeline.transport.shm.ring import DEFAULT_SLOTS, RingReader, RingWriter
from pipeline.transport.shm.ring_file import notify_path_of

MAX_READERS = 64
MAX_ACCEPTED = 16  # at once; a flood must not delay the frame
MAX_NAME = 64
MAX_PACKET = 8192
BUFFER = 8192  # about ten messages; a ring has no more slots
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_LENGTHS = struct.Struct("<2H")  # of the topic and of the header; the rest is the payload


class NotifyServer:
    """The writer's end: notifies every connected reader of a ring."""

    def __init__(self, ring: str) -> None:
        self._readers: dict[socket.socket, bytes] = {}
        self._unnamed: deque[socket.socket] = deque()
        self.names: frozenset[bytes] = frozenset()
        """The names of the connected readers."""
        self._path = notify_path_of(ring)
        self._listener = _listen(self._path)  # without it, all messages go through ZeroMQ

    def __len__(self) -> int:
        return len(self._readers)

    def accept(self, subscribers: Collection[bytes]) -> None:
        """Accept those of the subscribers that wait for a connection."""
        for _ in range(MAX_ACCEPTED):
            if self._listener is None:
                break
            try:
                reader, _ = self._listener.accept()
            except OSError:  # no reader waits, or no file descriptor is left
                break
            reader.setblocking(False)
            if _is_own(reader):
                self._unnamed.append(reader)
            else:
                reader.close()
        for _ in range(len(self._unnamed)):
            self._admit(self._unnamed.popleft(), subscribers)
        while len(self._unnamed) > MAX_ACCEPTED:
            self._unnamed.popleft().close()
        self.names = frozenset(self._readers.values())

    def _admit(self, reader: socket.socket, subscribers: Collection[bytes]) -> None:
        try:
            name = reader.recv(MAX_NAME)
        except BlockingIOError:  # it has just connected
            self._unnamed.append(reader)
            return
        except OSError:
            name = b""
        is_new = name in subscribers and name not in self._readers.values()
        if is_new and len(self._readers) < MAX_READERS:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            self._readers[reader] = name
        else:
            reader.close()

    def send(self, topic: bytes, header: bytes, payload: bytes) -> None:
        """Send to all readers that have room; close the connections of those that have ended."""
        packet = _LENGTHS.pack(len(topic), len(header)) + topic + header + payload
        for reader in tuple(self._readers):
            if not _is_sent(reader, packet):
                del self._readers[reader]
                reader.close()
                self.names = frozenset(self._readers.values())

    def close(self) -> None:
        """Close all connections. Idempotent."""
        for reader in (*self._readers, *self._unnamed):
            reader.close()
        self._readers.clear()
        self._unnamed.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)


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


def connect(ring: str, name: bytes) -> NotifyClient | None:
    """Connect to the writer of a ring as a subscriber of this name; None if that is impossible."""
    with contextlib.suppress(OSError):
        connected = _socket()
        try:
            connected.connect(notify_path_of(ring))
            if _is_own(connected):
                connected.send(name, socket.MSG_NOSIGNAL)
                return NotifyClient(connected)
        except OSError:
            pass
        connected.close()
    return None


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    return made


def _listen(path: str) -> socket.socket | None:
    """A socket that listens at a path, for this user only; None if that is impossible."""
    with contextlib.suppress(OSError):
        listener = _socket()
        try:
            os.fchmod(listener.fileno(), 0o600)  # before the file exists
            listener.bind(path)
            listener.listen(MAX_READERS)
        except OSError:
            listener.close()
        else:
            return listener
    return None


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


MAX_RINGS = 16
MAX_PADDING = 1 << 16  # between the planes of a frame and behind them


class WriterRings:
    """A publisher's rings, one per camera, each with the notifications of its readers."""

    def __init__(self, slots: int = DEFAULT_SLOTS) -> None:
        self._slots = slots
        self._rings: dict[str, tuple[RingWriter, NotifyServer]] = {}

    def get(self, camera: str, nbytes: int) -> tuple[RingWriter, NotifyServer]:
        """The camera's ring, replaced by a larger one if a slot is smaller than `nbytes`.

        Raises `RunError` if there is not enough shared memory.
        """
        found = self._rings.get(camera)
        if found is None or found[0].slot_bytes < nbytes:
            if found is not None:
                _close(found)
            ring = RingWriter(nbytes, self._slots)
            found = self._rings[camera] = ring, NotifyServer(ring.ring)
        return found

    def readers(self, camera: str) -> frozenset[bytes]:
        """The names of the readers of the camera's ring that are notified without ZeroMQ."""
        found = self._rings.get(camera)
        return found[1].names if found is not None else frozenset()

    def close(self) -> None:
        """Close all rings; their readers keep the images that they hold. Idempotent."""
        for found in self._rings.values():
            _close(found)


def _close(pair: tuple[RingWriter, NotifyServer]) -> None:
    for part in pair:
        part.close()


class ReaderRings:
    """The rings that a subscriber reads.

    `clients` are the connections to their writers by the ring's id, under the subscriber's `name`;
    without a name there are none. A ring of frames of more than `max_frame_bytes` is not opened.
    """

    def __init__(self, max_frame_bytes: int, name: bytes) -> None:
        self._max_slot_bytes = max_frame_bytes + MAX_PADDING
        self.clients: dict[str, NotifyClient] = {}
        self._name = name
        self._readers: dict[str, RingReader] = {}

    def get(self, ring: str) -> RingReader:
        """The reader of a ring; raises `OutOfReach` if it cannot be opened."""
        reader = self._readers.get(ring)
        if reader is None:
            # The rings of writers that have ended hold memory that no other process needs.
            kept = {key: one for key, one in self._readers.items() if not one.is_abandoned}
            while len(kept) >= MAX_RINGS:
                del kept[next(iter(kept))]
            self._readers = kept
            reader = self._readers[ring] = RingReader(ring, self._max_slot_bytes)
            if self._name and ring not in self.clients:
                client = connect(ring, self._name)
                if client is not None:
                    self.clients[ring] = client
        return reader

    def close(self) -> None:
        """Disconnect from the writers, and close the rings that no image uses."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        self._readers.clear()
