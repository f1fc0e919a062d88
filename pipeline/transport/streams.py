"""What a subscriber knows of each stream of messages: what was lost, and what comes late."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

from pipeline.transport.wire import Envelope

MAX_STREAMS = 256
LATE_NS = 200_000_000
WINDOW_NS = 30_000_000_000
INVALID = "?"
"""Where messages count whose topic cannot be believed."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stream:
    """The messages of one sender under one topic.

    `late_ns` tells of the newest how much longer it was on its way than the quickest of the last
    half to whole minute. Both ends' monotonic clocks serve, so that it needs no common time and
    nobody's setting the clock disturbs it.
    """

    next_count: int
    late_ns: int = 0
    quickest_ns: int | None = None
    quickest_before_ns: int | None = None
    window_start_ns: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the newest message waited somewhere, as in the queue to a process that stood."""
        return self.late_ns > LATE_NS

    def arrive(self, transit_ns: int, now_ns: int) -> None:
        """Note a message that was `transit_ns` on its way, plus what the clocks differ by."""
        if now_ns - self.window_start_ns > WINDOW_NS:
            self.window_start_ns = now_ns
            self.quickest_before_ns, self.quickest_ns = self.quickest_ns, None
        quickest = self.quickest_ns
        self.quickest_ns = transit_ns if quickest is None else min(quickest, transit_ns)
        known = [ns for ns in (self.quickest_ns, self.quickest_before_ns) if ns is not None]
        self.late_ns = transit_ns - min(known)

    def settle(self) -> None:
        """Take the time that the newest message took as usual from now on."""
        self.late_ns = 0
        self.quickest_ns = self.quickest_before_ns = None


class Streams:
    """Follows every stream that comes in and counts by topic what happens to its messages."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._streams: dict[tuple[int, str], Stream] = {}

    def admit(self, topic: str, header: Envelope) -> bool:
        """Count a message; False where it has come before (by a second way to its sender)."""
        stream = self.of(topic, header)
        count = self.counts[topic]
        count["received"] += 1
        if header.count < stream.next_count:
            count["repeated"] += 1
            return False
        count["lost"] += header.count - stream.next_count
        stream.next_count = header.count + 1
        now_ns = time.monotonic_ns()
        stream.arrive(now_ns - header.steady_ns, now_ns)
        return True

    def refuse(self) -> None:
        """Count a message that is none."""
        self.counts[INVALID]["received"] += 1
        self.counts[INVALID]["invalid"] += 1

    def of(self, topic: str, header: Envelope) -> Stream:
        """The stream that a message belongs to; one that is new begins with it."""
        key = header.sender, topic
        stream = self._streams.get(key)
        if stream is None:
            if any(known_topic == topic for _, known_topic in self._streams):
                log.info("%s: a publisher has started", topic)
            if len(self._streams) >= MAX_STREAMS:
                self._forget_oldest()
            stream = self._streams[key] = Stream(header.count)
        return stream

    def _forget_oldest(self) -> None:
        """Make room; the counts of a topic that no stream has any more go with it."""
        key = next(iter(self._streams))
        del self._streams[key]
        if not any(topic == key[1] for _, topic in self._streams):
            self.counts.pop(key[1], None)
