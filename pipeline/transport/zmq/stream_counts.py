"""Counts what happens to the messages of each stream, and notices those that arrive late."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.transport.wire.schema import EndHeader, Envelope

MAX_STREAMS = 256
LATE_NS = 200_000_000
WINDOW_NS = 30_000_000_000
LOG_EVERY_S = 10.0
INVALID = "?"
"""The topic that invalid messages are counted under."""

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


@dataclass(slots=True, eq=False)
class Stream:
    """The messages of one sender, at the network address `peer`, under one topic.

    - `count`: what happened to the messages of the topic, of this and of other senders
    - `late_ns`: how much longer the newest message took than the quickest of the last half to whole
      minute. Both ends' monotonic clocks are used, so that it needs no common time and does not
      change when a clock is set
    - `is_notified`: messages also come as notifications without ZeroMQ, see `shm.rings`
    """

    topic: str
    peer: str
    count: Counter[str]
    next_count: int
    is_notified: bool = False
    late_ns: int = 0
    quickest_ns: int | None = None
    quickest_before_ns: int | None = None
    window_start_ns: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the newest message waited somewhere, as in the queue to a stopped process."""
        return self.late_ns > LATE_NS

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


class Streams:
    """All streams that arrive; counts by topic what happens to their messages."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._streams: dict[tuple[int, str], Stream] = {}
        self._log_limit = LogLimit()

    def admit(
        self, topic: str, header: Envelope, peer: Callable[[], str], notified: bool = False
    ) -> Stream | None:
        """Count a message; returns its stream, or None if the message came before.

        A message comes again if there are two ways to its sender. `peer` returns the sender's
        address. A message that a notified reader also receives through ZeroMQ, or that a
        notification overtook, is not counted.
        """
        stream = self._streams.get((header.sender, topic)) or self._begin(topic, header, peer())
        stream.is_notified |= notified
        lost = header.count - stream.next_count
        if lost < 0 and stream.is_notified:
            return None
        stream.count["received"] += 1
        if lost < 0:
            stream.count["repeated"] += 1
            return None
        stream.count["lost"] += lost
        stream.next_count = header.count + 1
        now_ns = time.monotonic_ns()
        stream.arrive(now_ns - header.steady_ns, now_ns)
        return stream

    def end(self, topic: str, header: EndHeader) -> None:
        """Count as lost the messages of an ended stream that have not arrived."""
        stream = self._streams.get((header.sender, topic))
        if stream is not None and header.sent > stream.next_count:
            stream.count["lost"] += header.sent - stream.next_count
            stream.next_count = header.sent

    def refuse(self) -> None:
        """Count an invalid message."""
        self.counts[INVALID]["received"] += 1
        self.counts[INVALID]["invalid"] += 1

    def _begin(self, topic: str, header: Envelope, peer: str) -> Stream:
        """Follow a new stream, from the first message that arrives."""
        another = any(known_topic == topic for _, known_topic in self._streams)
        if another and self._log_limit.allows("another"):
            log.info("%s: another publisher has started", topic)
        if len(self._streams) >= MAX_STREAMS:
            self._forget_oldest()
        stream = Stream(topic, peer, self.counts[topic], header.count)
        self._streams[header.sender, topic] = stream
        return stream

    def _forget_oldest(self) -> None:
        """Make room; the counts of a topic without any stream are removed, too."""
        key = next(iter(self._streams))
        del self._streams[key]
        if not any(topic == key[1] for _, topic in self._streams):
            self.counts.pop(key[1], None)
