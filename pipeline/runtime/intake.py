"""Where a run takes things in: reads its source, and counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pipeline.errors import FrameError
from pipeline.runtime.mailbox import Closed
from pipeline.runtime.run_stats import RunStats

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

logger = logging.getLogger(__name__)


class Readable(Protocol[Item_co]):
    """What gives one item after another, and None at its end.

    It may have a method `done()`, which is called when one of them has been dealt with.
    """

    def read(self) -> Item_co | None: ...


class Intake(Generic[Item]):
    """Reads a source until it ends, is stopped, or has given `limit` items."""

    def __init__(self, source: Readable[Item], stats: RunStats, limit: int | None) -> None:
        self._source = source
        self._stats = stats
        self._limit = limit
        self._done: Callable[[], None] = getattr(source, "done", lambda: None)
        self._is_handed_out = False
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopped

    def stop(self) -> None:
        """Read nothing more; takes no lock, so a signal handler or any thread may call it."""
        self._is_stopped = True

    def read(self) -> Item:
        """The next item; a frame that cannot be decoded is counted and passed over.

        Raises `Closed` at the end.
        """
        tally = self._stats.tally
        while not self._is_stopped and tally["captured"] != self._limit:
            started_ns = time.perf_counter_ns()
            try:
                item = self._source.read()
            except FrameError as error:
                tally.add("captured")
                tally.add("failed")
                logger.warning("%s", error)
                continue
            if item is None:
                break
            tally.add("captured")
            self._stats.add_time("capture", time.perf_counter_ns() - started_ns)
            return item
        raise Closed

    def hand_out(self) -> None:
        """An item that was read goes to whoever iterates over the run."""
        self._is_handed_out = True

    def acknowledge(self) -> None:
        """Whoever iterates comes back, and so has dealt with what was handed out."""
        if self._is_handed_out:
            self._is_handed_out = False
            self._done()
