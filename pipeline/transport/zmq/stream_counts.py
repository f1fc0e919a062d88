"""What a subscriber knows of each stream of messages: what was lost, and what comes late."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.transport.wire.messages import Envelope

MAX_STREAMS = 256
LATE_NS = 200_000_000
WINDOW_NS = 30_000_000_000
SAY_EVERY_S = 10.0
INVALID = "?"
"""Where messages count whose topic cannot be believed."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Stream:
    """The messages of one sender, at the network address `peer`, under one topic.

    `count` is what happens to the messages of the topic, of this and of other senders. `late_ns`
    tells of the newest how much longer it was on its way than the quickest of the last
    half to whole minute. Both ends' monotonic clocks serve, so that it needs no common time and
    nobody's setting the clock disturbs it. `has_line` says that messages come by a line (see there)
    beside ZeroMQ.
    """

    topic: str
    peer: str
    count: Counter[str]
    next_count: int
    has_line: bool = False
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
        self._said_s = -SAY_EVERY_S

    def admit(
        self, topic: str, header: Envelope, peer: Callable[[], str], by_line: bool = False
    ) -> Stream | None:
        """The stream of a message, which is counted; None where the message came before.

        It comes again where there are two ways to its sender. `peer` gives the sender's address.
        What comes to a line's reader by ZeroMQ too, or is overtaken there, is no message more.
        """
        stream = self._streams.get((header.sender, topic)) or self._begin(topic, header, peer())
        stream.has_line |= by_line
        lost = header.count - stream.next_count
        if lost < 0 and stream.has_line:
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

    def refuse(self) -> None:
        """Count a message that is none."""
        self.counts[INVALID]["received"] += 1
        self.counts[INVALID]["invalid"] += 1

    def _begin(self, topic: str, header: Envelope, peer: str) -> Stream:
        """A stream that is new begins with the message that it is met by."""
        if any(known_topic == topic for _, known_topic in self._streams):
            self._say_another(topic)
        if len(self._streams) >= MAX_STREAMS:
            self._forget_oldest()
        stream = Stream(topic, peer, self.counts[topic], header.count)
        self._streams[header.sender, topic] = stream
        return stream

    def _say_another(self, topic: str) -> None:
        """Log it, but not at the pace of a peer that calls itself another every time."""
        now_s = time.monotonic()
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            log.info("%s: another publisher has started", topic)

    def _forget_oldest(self) -> None:
        """Make room; the counts of a topic that no stream has any more go with it."""
        key = next(iter(self._streams))
        del self._streams[key]
        if not any(topic == key[1] for _, topic in self._streams):
            self.counts.pop(key[1], None)
