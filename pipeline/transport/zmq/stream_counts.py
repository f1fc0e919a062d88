"""Counts what happens to the messages of each stream, and notices those that arrive late."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.transport.wire.schema import EndHeader, Envelope

MAX_STREAMS = 256
MAX_GAP = 1_000_000
"""Messages that one sender may lose in a row; a larger step in its numbers is a restart."""
SEEN = 64
"""The newest messages of a sender with two connections, to recognise those that come twice."""
LATE_NS = 200_000_000
WINDOW_NS = 30_000_000_000
LOG_EVERY_S = 10.0
INVALID = "?"
"""The topic that invalid messages and those of cameras beyond the limit are counted under."""

log = logging.getLogger(__name__)


class LogLimit:
    """Allows one log message of each kind per `LOG_EVERY_S`."""

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Whether a message of this kind may be logged now."""
        now_s = time.monotonic()
        if now_s - self._last_s.get(kind, -LOG_EVERY_S) < LOG_EVERY_S:
            return False
        self._last_s[kind] = now_s
        return True


Connection = int | str
"""What a message came through: the file descriptor of a socket, or the ring that notified of it."""


@dataclass(slots=True, eq=False)
class Stream:
    """The messages of one sender, at the network address `peer`, under one topic.

    A sender numbers itself, so what its messages do is kept apart by `connection`: no other peer
    can change it. `inode` tells whether the connection is still the same.

    - `count`: what happened to the messages of the topic, of this and of other senders
    - `late_ns`: how much longer the newest message took than the quickest of the last half to whole
      minute. Both ends' monotonic clocks are used, so that it needs no common time and does not
      change when a clock is set
    - `number`: that of no other stream
    - `ring`: the ring of the newest frame in shared memory
    - `is_notified`: messages also come as notifications without ZeroMQ, see `shm.rings`
    - `seen`: the newest messages, if another connection brings those of the same sender
    - `is_second`: the other connection was first, and only its losses count
    """

    topic: str
    sender: int
    connection: Connection
    peer: str
    count: Counter[str]
    next_count: int
    inode: int = 0
    number: int = field(default_factory=itertools.count().__next__)
    ring: str = ""
    is_notified: bool = False
    is_second: bool = False
    seen: deque[tuple[int, int, int]] | None = None
    late_ns: int = 0
    quickest_ns: int | None = None
    quickest_before_ns: int | None = None
    window_start_ns: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the newest message waited somewhere, as in the queue to a stopped process."""
        return self.late_ns > LATE_NS

    @property
    def is_connected(self) -> bool:
        """Whether its connection still exists."""
        return isinstance(self.connection, str) or inode_of(self.connection) == self.inode

    def arrive(self, transit_ns: int, now_ns: int) -> None:
        """Note a message that took `transit_ns`, plus the difference of the two clocks."""
        if now_ns - self.window_start_ns > WINDOW_NS:
            self.window_start_ns = now_ns
            self.quickest_before_ns, self.quickest_ns = self.quickest_ns, None
        quickest = self.quickest_ns
        self.quickest_ns = transit_ns if quickest is None else min(quickest, transit_ns)
        known = [ns for ns in (self.quickest_ns, self.quickest_before_ns) if ns is not None]
        self.late_ns = transit_ns - min(known)

    def settle(self) -> None:
        """Regard the time that the newest message took as normal from now on."""
        self.late_ns = 0
        self.quickest_ns = self.quickest_before_ns = None

    def lose(self, before: int) -> None:
        """Count as lost the messages that did not arrive before the one of this number."""
        lost = before - self.next_count
        if 0 <= lost <= MAX_GAP and not self.is_second:
            self.count["lost"] += lost

    def follow(self, first: Stream) -> None:
        """Note that the same sender has another connection, whose messages may come here, too."""
        self.is_second = True
        self.seen = first.seen = first.seen or deque(maxlen=SEEN)
        if first.next_count - self.next_count <= SEEN:
            self.next_count = max(self.next_count, first.next_count)

    def has_seen(self, header: Envelope) -> bool:
        """Whether the same message came before, through another connection."""
        if self.seen is None:
            return False
        message = header.count, header.seq, header.stamp_ns
        if message in self.seen:
            return True
        self.seen.append(message)
        return False


class Streams:
    """All streams that arrive, of at most `max_cameras` cameras.

    Counts by topic what happens to their messages.
    """

    def __init__(self, max_cameras: int = MAX_STREAMS) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._max_cameras = max_cameras
        self._streams: dict[tuple[Connection, int, str], Stream] = {}
        self._log_limit = LogLimit()

    def admit(
        self,
        topic: str,
        header: Envelope,
        connection: Connection,
        peer: Callable[[], str],
    ) -> Stream | None:
        """Count a message; returns its stream, or None if the message is not to be used.

        That is one that came before, through another connection to its sender, or one of a camera
        beyond the limit. `peer` returns the sender's address. A message that a notified reader also
        receives through ZeroMQ, or that a notification overtook, is not counted.
        """
        stream = self._find(connection, header.sender, topic)
        if stream is None:
            stream = self._begin(topic, header, connection, peer)
            if stream is None:
                return None
        stream.is_notified |= isinstance(connection, str)
        ahead = header.count - stream.next_count
        if -MAX_GAP <= ahead < 0 and stream.is_notified:
            return None
        stream.count["received"] += 1
        if -MAX_GAP <= ahead < 0:
            stream.count["repeated"] += 1
            return None
        stream.lose(header.count)
        stream.next_count = header.count + 1
        if stream.has_seen(header):
            stream.count["repeated"] += 1
            return None
        now_ns = time.monotonic_ns()
        stream.arrive(now_ns - header.steady_ns, now_ns)
        return stream

    def end(self, topic: str, header: EndHeader, connection: Connection) -> None:
        """Count as lost the messages of an ended stream that have not arrived."""
        stream = self._find(connection, header.sender, topic)
        if stream is not None and 0 < header.sent - stream.next_count <= MAX_GAP:
            stream.lose(header.sent)
            stream.next_count = header.sent

    def refuse(self, why: str = "invalid") -> None:
        """Count a message that was refused."""
        self.counts[INVALID]["received"] += 1
        self.counts[INVALID][why] += 1

    def _find(self, connection: Connection, sender: int, topic: str) -> Stream | None:
        stream = self._streams.get((connection, sender, topic))
        if stream is not None:
            return stream
        for stream in self._all():
            if (stream.sender, stream.topic) != (sender, topic):
                continue
            if isinstance(connection, str):
                is_it = stream.ring == connection  # the sender named the ring that notifies
            elif is_it := not stream.is_connected:  # it has connected again
                self._forget(stream)
                stream.connection, stream.inode = connection, inode_of(connection)
            if is_it:
                self._streams[connection, sender, topic] = stream
                return stream
        return None

    def _all(self) -> list[Stream]:
        return list(dict.fromkeys(self._streams.values()))

    def _begin(
        self, topic: str, header: Envelope, connection: Connection, peer: Callable[[], str]
    ) -> Stream | None:
        """Follow a new stream, from the first message that arrives.

        A connection has one sender for each topic. Returns None if there are too many cameras.
        """
        namesakes = [stream for stream in self._all() if stream.topic == topic]
        if not namesakes and not self._has_room(header.camera):
            self.refuse("refused")
            if self._log_limit.allows("cameras"):
                log.warning(
                    "%s: refused, as there are %d cameras; --max-cameras sets the limit",
                    *(topic, self._max_cameras),
                )
            return None
        if namesakes and self._log_limit.allows("another"):
            log.info("%s: another publisher has started", topic)
        stream = Stream(
            *(topic, header.sender, connection, peer(), self.counts[topic], header.count),
            inode=inode_of(connection),
        )
        for other in namesakes:
            if other.connection == connection:
                self._forget(other)
            elif other.sender == header.sender:
                stream.follow(other)
        if len(self._streams) >= MAX_STREAMS:
            self._forget(next(iter(self._streams.values())), with_counts=True)
        self._streams[connection, header.sender, topic] = stream
        return stream

    def _has_room(self, camera: str) -> bool:
        """Whether a new topic of this camera is accepted; forgets cameras without a connection."""
        for attempt in range(2):
            cameras = {topic.partition("/")[2] for _, _, topic in self._streams}
            if camera in cameras or len(cameras) < self._max_cameras:
                return True
            if attempt == 0:
                for stream in self._all():
                    if not stream.is_connected:
                        self._forget(stream, with_counts=True)
        return False

    def _forget(self, stream: Stream, *, with_counts: bool = False) -> None:
        """Forget a stream, and the counts of its topic if that has no other stream."""
        for key in [key for key, known in self._streams.items() if known is stream]:
            del self._streams[key]
        if with_counts and all(topic != stream.topic for _, _, topic in self._streams):
            self.counts.pop(stream.topic, None)


def inode_of(connection: Connection) -> int:
    """A number that no other open connection has; 0 if the connection is closed."""
    try:
        return os.fstat(connection).st_ino if isinstance(connection, int) else 0
    except OSError:
        return 0
