"""Hands on what a source gives, without inference, for commands that only send or show.

    source -> [capture] -> newest, or back-pressure -> whoever iterates

The source is read by a thread of its own, so that one that hangs holds up no signal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from pipeline.runtime.intake import Intake
from pipeline.runtime.mailbox import Closed, Mailbox
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.stage import Stage
from pipeline.types import Detections, Frame, Result

STAGES = ("capture", "output")
POLL_S = 0.1  # how often a waiting reader looks whether it was asked to stop
JOIN_S = 0.6  # how long the thread may take to end; one stuck in a driver is left behind

logger = logging.getLogger(__name__)


class FeedSource(Protocol):
    """What a feed needs of a source of frames or of results."""

    live: bool

    def read(self) -> Frame | Result | None: ...
    def close(self) -> None: ...


class Feed:
    """Reads a source; iterating gives `Result`s, those of plain frames without any object.

    - `every_frame`: True for everything that is read, False for the newest only; by default as the
      source is
    - `capacity`: how many may wait for the reader, for sources that give several at once
    - `max_frames`, `duration_s`: end after so many or so many seconds

    Entering starts the thread, leaving ends it and closes the source. What breaks the source is
    raised from the iteration as a `StageError`. At the end captured = processed + dropped + failed.
    """

    def __init__(
        self,
        source: FeedSource,
        *,
        every_frame: bool | None = None,
        capacity: int = 1,
        max_frames: int | None = None,
        duration_s: float | None = None,
    ) -> None:
        self._source = source
        self._every_frame = not source.live if every_frame is None else every_frame
        self._max_frames = max_frames
        self._duration_s = duration_s
        self._stats = RunStats(source, STAGES)
        limit = max_frames if self._every_frame else None
        self._intake: Intake[Frame | Result] = Intake(source, self._stats, limit)
        self._inbox: Mailbox[Result] = Mailbox(capacity, newest_wins=not self._every_frame)
        self._stage: Stage[Result, Result] = Stage(
            "capture",
            take=self._read,
            work=lambda result: result,
            give=self._offer,
            discard=self._drop,
            fail=self._drop,
            abort=lambda: None,
            finish=self._inbox.close,
        )

    def __enter__(self) -> Feed:
        self._stats.start()
        self._stage.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        self._intake.acknowledge()
        while not self._is_over():
            try:
                result = self._inbox.get(POLL_S)
            except TimeoutError:
                continue
            except Closed:
                break
            self._stats.tally.add("processed")
            self._record_age("output", result)
            self._intake.hand_out()
            return result
        raise StopIteration

    def stop(self) -> None:
        """Ask for an end; takes no lock, so a signal handler or any thread may call it."""
        self._intake.stop()

    def close(self) -> None:
        """End; calling it again does nothing."""
        self._intake.stop()
        for result in self._inbox.cancel():
            self._drop(result)
        self._source.close()
        if self._stats.has_started and not self._stage.join(time.monotonic() + JOIN_S):
            logger.warning("the source did not end in time and is left behind")
            self._stats.tally.settle()
        self._stats.end()

    def record_output(self, duration_ns: int) -> None:
        """Note how long the consumer took over one result, for the statistics."""
        self._stats.add_time("output", duration_ns)

    def stats(self) -> dict[str, Any]:
        """Counts, rate and ages so far, in the form of `--stats`."""
        return self._stats.as_dict()

    def _is_over(self) -> bool:
        if self._duration_s is not None and self._stats.seconds >= self._duration_s:
            self._intake.stop()
        return self._intake.is_stopped or self._stats.tally["processed"] == self._max_frames

    def _read(self) -> Result:
        item = self._intake.read()
        result = _result(item) if isinstance(item, Frame) else item
        self._record_age("capture", result)
        return result

    def _offer(self, result: Result) -> None:
        displaced = self._inbox.put(result)
        if displaced is not None:
            self._drop(displaced)

    def _drop(self, result: Result) -> None:
        self._stats.tally.add("dropped")

    def _record_age(self, stage: str, result: Result) -> None:
        self._stats.add_age(stage, result.header.camera, result.header.stamp_ns)


def _result(frame: Frame) -> Result:
    return Result(frame.header, Detections.empty(()), frame=frame)
