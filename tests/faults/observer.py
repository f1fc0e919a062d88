"""Reads the messages of one hop and checks their numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.transport import Received, Subscriber


class Observer:
    """Reads one hop in a thread; `check` is called with every message."""

    def __init__(self, address: str, check: Callable[[Received], None], **options: Any) -> None:
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._check = check
        self._thread = threading.Thread(target=self._run, args=(address, options), daemon=True)
        self._thread.start()

    def _run(self, address: str, options: dict[str, Any]) -> None:
        try:
            with Subscriber(address, **options) as subscriber:
                while not self._stop.is_set():
                    received = subscriber.receive(0.05)
                    if received is not None:
                        self._check(received)
                self.counts = {topic: dict(count) for topic, count in subscriber.counts.items()}
        except Exception as error:  # raised in `close`
            self.failure = error

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure


class Ledger:
    """The messages of one hop: no sender may send one twice."""

    def __init__(self) -> None:
        self.ages_ms: list[float] = []
        self.next_count: dict[int, int] = {}
        self.newest_ns: dict[int, int] = {}  # stamps
        self.seen = 0
        self.news: dict[int, float] = {}  # when each sender's first message came

    def check(self, received: Received) -> None:
        header = received.header
        assert header.count >= self.next_count.get(header.sender, 0), "a message came twice"
        newest_ns = self.newest_ns.get(header.sender, 0)
        assert header.stamp_ns > newest_ns or header.seq < 5, "a frame came twice"
        self.news.setdefault(header.sender, time.monotonic())
        self.newest_ns[header.sender] = header.stamp_ns
        self.next_count[header.sender] = header.count + 1
        self.seen += 1
        age_ns = received.age_ns()
        assert age_ns is not None
        self.ages_ms.append(age_ns / 1e6)

    def has_newer(self, than_ns: int) -> bool:
        """Whether a message of a frame with a later stamp came."""
        return any(stamp_ns > than_ns for stamp_ns in tuple(self.newest_ns.values()))
