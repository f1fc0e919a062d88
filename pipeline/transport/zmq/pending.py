"""Holds the messages that have arrived until they are read, within a limit in bytes."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from pipeline.transport.wire.messages import Message
from pipeline.transport.zmq.stream_counts import Connection, Stream

HEADER_COST = 40
"""The memory that a decoded header takes, at most: this many times its bytes in the message."""


Key = tuple[Connection, str]
"""A connection and a topic."""


class Arrived(NamedTuple):
    """A message that waits, and its size in memory."""

    key: Key
    stream: Stream
    message: Message
    nbytes: int


class Pending:
    """The newest messages of each connection and topic, in turn; at most `max_bytes` of all.

    Of each, `depth` messages wait. A message displaces older ones of its own connection and topic,
    and beyond `max_bytes` those of whichever holds most; they count as `superseded`.
    """

    def __init__(self, depth: int, max_bytes: int) -> None:
        self.depth = depth
        self._max_bytes = max_bytes
        self._held: dict[Key, deque[Arrived]] = {}
        self._nbytes = 0

    def __len__(self) -> int:
        """From how many connections and topics messages wait."""
        return len(self._held)

    def add(self, stream: Stream, message: Message, nbytes: int) -> None:
        """Add the newest message of a stream."""
        key = stream.connection, stream.topic
        held = self._held.setdefault(key, deque())
        held.append(Arrived(key, stream, message, nbytes))
        self._nbytes += nbytes
        if len(held) > self.depth:
            self._supersede(key)
        while self._nbytes > self._max_bytes and self._nbytes > nbytes:
            self._supersede(max(self._held, key=self._nbytes_of))

    def first(self) -> Arrived:
        """The message whose turn it is."""
        return next(iter(self._held.values()))[0]

    def take(self, key: Key) -> Arrived | None:
        """Remove the oldest message of a connection and topic, which then go behind the others.

        None if it was displaced meanwhile.
        """
        held = self._held.pop(key, None)
        if held is None:
            return None
        taken = held.popleft()
        self._nbytes -= taken.nbytes
        if held:
            self._held[key] = held
        return taken

    def has_topic(self, topic: str) -> bool:
        """Whether a message of this topic waits."""
        return any(held_topic == topic for _, held_topic in self._held)

    def discard(self, fate: str) -> None:
        """Discard all messages, and count them as `fate`."""
        for held in self._held.values():
            for arrived in held:
                arrived.stream.count[fate] += 1
        self._held.clear()
        self._nbytes = 0

    def _nbytes_of(self, key: Key) -> int:
        return sum(arrived.nbytes for arrived in self._held[key])

    def _supersede(self, key: Key) -> None:
        """Remove the oldest message of a connection and topic, which keep their turn."""
        held = self._held[key]
        removed = held.popleft()
        removed.stream.count["superseded"] += 1
        self._nbytes -= removed.nbytes
        if not held:
            del self._held[key]
