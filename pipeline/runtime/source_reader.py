"""Reads a source for a run, counts what it gives, and ends on request."""

from __future__ import annotations

import logging
import time
from typing import Any

from pipeline.errors import FrameError
from pipeline.runtime.mailbox import Closed
from pipeline.runtime.statistics import RunStatistics
from pipeline.source import Source
from pipeline.types import Frame, Result

logger = logging.getLogger(__name__)


class SourceReader:
    """Reads a source until it ends, is stopped, or has given `limit` items."""

    def __init__(
        self, source: Source[Any], statistics: RunStatistics, limit: int | None = None
    ) -> None:
        self._source = source
        self._statistics = statistics
        self._limit = limit
        self._is_handed_out = False
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopped

    def stop(self) -> None:
        """Read nothing more. Takes no lock, so a signal handler or any thread may call it."""
        self._is_stopped = True

    def get(self) -> Frame | Result:
        """Return the next item; a frame that cannot be decoded is counted and skipped.

        Raises `Closed` at the end.
        """
        counts = self._statistics.counts
        while not self._is_stopped and counts["captured"] != self._limit:
            started_ns = time.perf_counter_ns()
            try:
                item: Frame | Result | None = self._source.read()
            except FrameError as error:
                counts.add("captured")
                counts.add("failed")
                logger.warning("%s", error)
                continue
            if item is None:
                break
            counts.add("captured")
            self._statistics.add_time("capture", time.perf_counter_ns() - started_ns)
            return item
        raise Closed

    def cancel(self) -> tuple[()]:
        """Read nothing more; no item waits here."""
        self._is_stopped = True
        return ()

    def hand_out(self) -> None:
        """Note that the consumer gets an item that was read."""
        self._is_handed_out = True

    def acknowledge(self) -> None:
        """Note that the consumer has returned, so it has processed what was handed out."""
        if self._is_handed_out:
            self._is_handed_out = False
            self._source.done()
