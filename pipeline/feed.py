"""Hands on what a source gives, without inference, for commands that only send or show.

    source -> [capture] -> newest, or back-pressure -> whoever iterates

The source is read by a thread of its own, so that one that hangs holds up no signal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

import psutil

from pipeline.errors import FrameError
from pipeline.runtime.mailbox import Closed, Mailbox
from pipeline.runtime.metrics import Durations
from pipeline.runtime.stage import Stage
from pipeline.runtime.stamps import StampClock
from pipeline.runtime.tally import Tally
from pipeline.types import Detections, Frame, Result

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
        self._done: Callable[[], None] = getattr(source, "done", lambda: None)
        self._is_given = False
        self._max_frames = max_frames
        self._duration_s = duration_s
        self._clock = StampClock(source)
        self._tally = Tally()
        self._ages = Durations()
        self._output_times = Durations()
        self._started_s = self._ended_s = 0.0
        self._stop_requested = False
        self._every_frame = not source.live if every_frame is None else every_frame
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
        self._started_s = time.monotonic()
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
        if self._is_given:  # whoever comes back has dealt with the result before
            self._is_given = False
            self._done()
        while not self._is_over():
            try:
                result = self._inbox.get(POLL_S)
            except TimeoutError:
                continue
            except Closed:
                break
            self._tally.add("processed")
            header = result.header
            self._ages.add(self._clock.age_ms(header.camera, header.stamp_ns))
            self._is_given = True
            return result
        raise StopIteration

    def stop(self) -> None:
        """Ask for an end; takes no lock, so a signal handler or any thread may call it."""
        self._stop_requested = True

    def close(self) -> None:
        """End; calling it again does nothing."""
        self._stop_requested = True
        for result in self._inbox.cancel():
            self._drop(result)
        self._source.close()
        if self._started_s and not self._stage.join(time.monotonic() + JOIN_S):
            logger.warning("the source did not end in time and is left behind")
            self._tally.settle()
        self._ended_s = self._ended_s or time.monotonic()

    def record_output(self, duration_ns: int) -> None:
        """Note how long the consumer took over one result, for the statistics."""
        self._output_times.add(duration_ns / 1e6)

    def stats(self) -> dict[str, Any]:
        """Counts, rate and ages so far, in the form of `--stats`."""
        seconds = (self._ended_s or time.monotonic()) - self._started_s if self._started_s else 0.0
        counts = self._tally.as_dict()
        return {
            **counts,
            "seconds": round(seconds, 3),
            "fps": round(counts["processed"] / seconds, 2) if seconds > 0 else 0.0,
            "age_ms": {
                **self._ages.as_dict(),
                "max": round(self._ages.max_ms, 3),
                **self._clock.error(),
            },
            "stages": {"output": self._output_times.as_dict("_ms")},
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }

    def _is_over(self) -> bool:
        if self._duration_s is not None:
            self._stop_requested |= time.monotonic() - self._started_s >= self._duration_s
        return self._stop_requested or self._tally["processed"] == self._max_frames

    def _read(self) -> Result:
        """What the source gives next; a frame that cannot be decoded is counted and passed over."""
        while not self._stop_requested and not (
            self._every_frame and self._tally["captured"] == self._max_frames
        ):
            try:
                item = self._source.read()
            except FrameError as error:
                self._tally.add("captured")
                self._tally.add("failed")
                logger.warning("%s", error)
                continue
            if item is None:
                break
            self._tally.add("captured")
            return _result(item) if isinstance(item, Frame) else item
        raise Closed

    def _offer(self, result: Result) -> None:
        displaced = self._inbox.put(result)
        if displaced is not None:
            self._drop(displaced)

    def _drop(self, result: Result) -> None:
        self._tally.add("dropped")


def _result(frame: Frame) -> Result:
    return Result(frame.header, Detections.empty(()), image=frame.image)
