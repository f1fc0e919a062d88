"""Follows what the subscribers of a publisher want, and who has received the end of a topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import zmq

from pipeline.transport.zmq.sockets import is_readable
from pipeline.transport.zmq.worker_groups import WorkerGroups

MAX_SUBSCRIPTION = 1024  # bytes; subscribers send nothing longer
MAX_SUBSCRIPTIONS = 1000

_END = b"end/"


def end_receipt(sender: int, subscriber: str, topic: bytes) -> bytes:
    """What a subscriber subscribes to for a moment to confirm the end message of a topic.

    A subscriber cannot send anything else to a publisher.
    """
    return _END + f"{sender:016x}/{subscriber}/".encode() + topic


class Subscriptions:
    """The subscriptions at an XPUB socket, and the worker groups among them.

    `forget` is called with the topic prefix of a group's member that has left.
    """

    def __init__(self, socket: zmq.Socket[bytes], forget: Callable[[bytes], object]) -> None:
        self._socket = socket
        self._forget = forget
        self.prefixes: Counter[bytes] = Counter()
        self.groups = WorkerGroups()
        self._receipts: set[bytes] | None = None

    def wants(self, topic: bytes) -> bool:
        """Whether any subscriber wants the topic."""
        return any(topic.startswith(prefix) for prefix in self.prefixes)

    def count(self, topic: bytes) -> int:
        """How many subscribers want the topic."""
        return sum(n for prefix, n in self.prefixes.items() if topic.startswith(prefix))

    def unconfirmed(self, sender: int, topics: list[bytes]) -> list[bytes]:
        """Those of the topics whose end has not reached all their subscribers."""
        if self._receipts is None:
            self._receipts = set()
        self.update()
        own = f"{_END.decode()}{sender:016x}/".encode()
        confirmed = Counter(r.split(b"/", 3)[3] for r in self._receipts if r.startswith(own))
        return [topic for topic in topics if confirmed[topic] < self.count(topic)]

    def update(self) -> None:
        """Process what subscribers have sent: subscriptions, their ends, and members' requests."""
        for _ in range(MAX_SUBSCRIPTIONS):  # a flood must not delay the frame
            if not is_readable(self._socket):
                return
            message, *more = self._socket.recv_multipart()
            if not more:  # messages of several parts mean nothing here
                self._process(message)

    def _process(self, message: bytes) -> None:
        kind, topic = message[:1], message[1:]
        if kind in {b"\x00", b"\x01"} and topic.startswith(_END):
            if self._receipts is not None and topic.count(b"/") >= 3:
                self._receipts.add(topic)
        elif kind == b"\x01" and len(self.prefixes) < MAX_SUBSCRIPTIONS:
            self.prefixes[topic] += 1
            self.groups.join(topic)
        elif kind == b"\x00":
            self.prefixes[topic] -= 1
            if self.prefixes[topic] <= 0:
                del self.prefixes[topic]
                self.groups.leave(topic)
                if topic.startswith(b"turn/"):  # a member that returns has another name
                    self._forget(topic)
        else:
            self.groups.note_ready(message)
