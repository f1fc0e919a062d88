"""Follows what the subscribers of a publisher want, per connection.

libzmq keeps for each connection the set of its subscriptions, and sends a message to those
connections that have a matching one. It reports each message of a connection with the
connection's number (see `Connections`), also one that repeats a subscription or takes back what the
connection never had. When a connection ends, it reports each subscription of its set, without a
number. The same set is kept here per connection, so that no report of one connection changes what
the others have.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import zmq

from pipeline.transport.address import Address
from pipeline.transport.wire.schema import WireError, frame_topic, result_topic
from pipeline.transport.zmq.sockets import Endpoint, is_readable
from pipeline.transport.zmq.worker_groups import WorkerGroups

MAX_SUBSCRIPTION = 512  # bytes; subscribers send nothing longer
MAX_TOPICS = 128
"""Subscriptions of one connection; one that has more is closed."""
MAX_TOPIC_BYTES = 16384  # of all of them; libzmq needs up to 50 times as much
READ_S = 0.001  # for reading messages at once; a flood must not delay the frame
FLOOD = 2000
"""Messages of one connection within a second that are a flood if not all can be read."""

_END = b"end/"
_NAME = (
    b"client/"  # libzmq repeats subscriptions in order of the alphabet, and this must come first
)
_NO_STREAMS = (_END, _NAME)


def stream_topics(addresses: Sequence[Address], frames: bool, results: bool) -> list[bytes]:
    """The topics to subscribe to; one that ends with a slash is a prefix."""
    cameras = {address.camera for address in addresses}
    topics = []
    for camera in {None} if None in cameras else cameras:
        if frames:
            topics.append(frame_topic(camera) if camera else b"frame/")
        if results:
            topics.append(result_topic(camera) if camera else b"result/")
    return topics


def end_receipt(sender: int, subscriber: str, topic: bytes) -> bytes:
    """What a subscriber subscribes to for a moment to confirm the end message of a topic.

    A subscriber cannot send anything else to a publisher.
    """
    return _END + f"{sender:016x}/{subscriber}/".encode() + topic


def subscriber_topic(name: bytes) -> bytes:
    """What a subscriber subscribes to, to tell the name under which its rings are read.

    It is a random one, so that nobody else can tell it.
    """
    return _NAME + name


@dataclass(eq=False)
class Connection:
    """The subscriptions of one connection.

    `name` is empty for those that have no number: the publisher connected to them, with keys, so
    they are trusted.
    """

    name: str
    fd: int = -1
    inode: int = 0
    topics: Counter[bytes] = field(default_factory=Counter)
    nbytes: int = 0

    @property
    def names(self) -> list[bytes]:
        """Its names as a reader of rings."""
        return [t.removeprefix(_NAME) for t in self.topics if t.startswith(_NAME)]

    def wants(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self.topics)


@dataclass
class _Recent:
    """What a connection sent within this second: how many parts, and the first of them."""

    message: zmq.Frame
    parts: int = 0
    is_refused: bool = False


class Subscriptions:
    """The subscriptions at an XPUB socket, and the worker groups among them.

    `prefixes` holds how many connections subscribe to what. `forget` is called with the topic
    prefix of a group's member that has left.
    """

    def __init__(self, endpoint: Endpoint, forget: Callable[[bytes], object]) -> None:
        self._endpoint = endpoint
        self._socket = endpoint.socket
        self._forget = forget
        self.prefixes: Counter[bytes] = Counter()
        self.groups = WorkerGroups()
        self._connections: dict[str, Connection] = {}
        self._counts: dict[bytes, int] = {}  # of the topics asked for, until something changes
        self._names: dict[bytes, frozenset[bytes]] = {}  # the same
        self._ended: Counter[bytes] = Counter()  # of connections that are not known yet
        self._receipts: dict[bytes, set[str]] | None = None
        self._receipts_for = b""
        self._recent: dict[str, _Recent] = {}
        self._second = 0

    def wants(self, topic: bytes) -> bool:
        """Whether any subscriber wants the topic."""
        return self.count(topic) > 0

    def count(self, topic: bytes) -> int:
        """How many subscribers want the topic."""
        found = self._counts.get(topic)
        if found is None:
            found = sum(self.prefixes[topic[:size]] for size in range(len(topic) + 1))
            self._counts[topic] = found
        return found

    def names(self, topic: bytes) -> frozenset[bytes]:
        """The names of the subscribers that want the topic; an empty one if some have none."""
        found = self._names.get(topic)
        if found is None:
            wanting = [c.names or [b""] for c in self._connections.values() if c.wants(topic)]
            found = self._names[topic] = frozenset(name for names in wanting for name in names)
        return found

    def unconfirmed(self, sender: int, topics: Collection[bytes]) -> list[bytes]:
        """Those of the topics whose end has not reached all their subscribers."""
        if self._receipts is None:
            self._receipts = {topic: set() for topic in topics}
            self._receipts_for = _END + f"{sender:016x}/".encode()
        self.update()
        return [topic for topic in topics if self._waits(topic, self._receipts.get(topic, set()))]

    def _waits(self, topic: bytes, confirmed: Collection[str]) -> bool:
        return any(
            name not in confirmed and connection.wants(topic)
            for name, connection in self._connections.items()
        )

    def update(self) -> None:
        """Process what subscribers have sent: subscriptions, their ends, and members' requests."""
        if self._ended:
            self._find_ended()
        if not is_readable(self._socket):
            return
        end_s = time.monotonic() + READ_S
        while time.monotonic() < end_s:
            if not is_readable(self._socket):
                return
            first, *more = self._socket.recv_multipart(copy=False)
            try:
                connection = self._sender(first, 1 + len(more))
            except WireError:
                self._refuse(_Recent(first), "is of another user (--insecure trusts all users)")
                continue
            if not more:  # messages of several parts mean nothing here
                self.process(first.bytes, connection)
        self._end_flood()

    def process(self, message: bytes, connection: Connection | None) -> None:
        """Process a message of a connection, or (None) libzmq's report that one has ended."""
        kind, topic = message[:1], message[1:]
        if connection is None:
            self._end(topic)
        elif kind == b"\x00":
            if connection.topics[topic]:  # else it never had it
                self._drop(topic, connection)
                self._uncount(topic)
        elif kind == b"\x01":
            self._add(topic, connection)
        else:
            self.groups.note_ready(connection.name, message)

    # --- what each connection wants ---------------------------------------------------------

    def _add(self, topic: bytes, connection: Connection) -> None:
        if connection.name and connection.topics[topic]:
            return  # the set has it already
        self._connections[connection.name] = connection
        connection.topics[topic] += 1
        connection.nbytes += len(topic)
        self._names.clear()
        if topic.startswith(_NO_STREAMS):
            self._note_receipt(topic, connection)
            return
        self.prefixes[topic] += 1
        self._counts.clear()
        self.groups.join(connection.name, topic)

    def _end(self, topic: bytes) -> None:
        """Process that a connection has ended that had this subscription.

        Which one it was may be known only later, from `is_open`; the count does not depend on it.
        """
        having = [c for c in self._connections.values() if c.topics[topic]]
        ended = next((c for c in having if not self._is_open(c)), None)
        if ended is not None:
            self._drop(topic, ended)
        elif having:
            self._ended[topic] += 1
        if having:
            self._uncount(topic)

    def _find_ended(self) -> None:
        for topic in tuple(self._ended):
            having = [c for c in self._connections.values() if c.topics[topic]]
            for ended in [c for c in having if not self._is_open(c)][: self._ended[topic]]:
                self._drop(topic, ended)
                self._ended[topic] -= 1
            if not self._ended[topic]:
                del self._ended[topic]

    def _drop(self, topic: bytes, connection: Connection) -> None:
        connection.topics[topic] -= 1
        connection.nbytes -= len(topic)
        if not connection.topics[topic]:
            del connection.topics[topic]
            self.groups.leave(connection.name, topic)
        if not connection.topics:
            del self._connections[connection.name]
        self._names.clear()

    def _uncount(self, topic: bytes) -> None:
        if topic.startswith(_NO_STREAMS):
            return
        self.prefixes[topic] -= 1
        self._counts.clear()
        if not self.prefixes[topic]:
            del self.prefixes[topic]
            if topic.startswith(b"turn/"):  # a member that returns has another name
                self._forget(topic)

    def _is_open(self, connection: Connection) -> bool:
        return (
            bool(connection.inode)
            and _inode(connection.fd) == connection.inode
            and self._endpoint.is_open(connection.name, connection.fd)
        )

    def _note_receipt(self, topic: bytes, connection: Connection) -> None:
        if self._receipts is not None and topic.startswith(self._receipts_for):
            confirmed = self._receipts.get(topic.split(b"/", 3)[-1])
            if confirmed is not None:
                confirmed.add(connection.name)

    # --- who sends ----------------------------------------------------------------------------

    def _sender(self, message: zmq.Frame, parts: int) -> Connection | None:
        """The connection that sent a message; None if libzmq itself reports an end.

        Raises `WireError` if it is of another user.
        """
        try:
            name = str(message.get("User-Id"))
        except zmq.ZMQError:
            try:
                message.get("Socket-Type")
            except zmq.ZMQError:
                return None
            return self._connections.get("") or Connection("")
        connection = self._connections.get(name)
        if connection is None:
            if not self._endpoint.is_bound:  # else `Connections` has checked it
                self._endpoint.check_user(message)
            fd = int(message.get(zmq.SRCFD))
            connection = Connection(name, fd, _inode(fd))
            self._endpoint.note_message(message)
        self._limit(message, connection, parts)
        return connection

    def _limit(self, message: zmq.Frame, connection: Connection, parts: int) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._recent.clear()
        recent = self._recent.setdefault(connection.name, _Recent(message))
        recent.parts += parts
        if len(connection.topics) > MAX_TOPICS or connection.nbytes > MAX_TOPIC_BYTES:
            self._refuse(recent, f"has more than {MAX_TOPICS} subscriptions or too long ones")

    def _end_flood(self) -> None:
        """Close the connection that sent most, if it sent so much that others have to wait."""
        busiest = max(self._recent.values(), key=lambda recent: recent.parts, default=None)
        if busiest is not None and busiest.parts > FLOOD:
            self._refuse(busiest, "sends more messages than can be read")

    def _refuse(self, recent: _Recent, why: str) -> None:
        if not recent.is_refused:
            recent.is_refused = True
            self._endpoint.disconnect(recent.message, why)


def _inode(fd: int) -> int:
    """The number of an open file, which no later one has; 0 if there is none."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0
