"""A live source that comes back: what broke is opened again until it works or is closed.

The count goes on over a gap: `seq` jumps by the frames that would have come at the rate so far, at
least by one, so a gap still means frames that were lost. How many times and for how long a source
was away stands in `reconnects` and `gap_s`, and in the log.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable

from pipeline.capture.watchdog import Reader
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source
from pipeline.types import Frame

log = logging.getLogger(__name__)

STEADY_S = 10.0
"""A connection that has held so long is good again: the next loss starts with short waits."""
_RATE_AFTER_S = 1.0  # a shorter connection says little about the rate


@dataclasses.dataclass(frozen=True)
class Backoff:
    """How long to wait before attempt `n`, counted from 0: anything up to a limit that doubles.

    Full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015): many robots that lost the same
    server do not all come back at the same moment.
    """

    first_s: float = 0.5
    longest_s: float = 5.0
    random: random.Random = dataclasses.field(default_factory=random.Random)

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait, uniformly from 0 to `first_s` * 2^attempt or `longest_s`."""
        return self.random.uniform(0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))


class Reconnecting(Source[Frame]):
    """A live source over readers: when one breaks, `dial` makes the next.

    - `reader`: open already; its name, rate and length are those of the source
    - `dial`: gives a reader, not yet open, after the failure that it is told; None where the source
      shall end with its failure
    - `check`: looks at every frame and raises `CaptureError` where it shows that the device is
      broken although it delivers
    - `patience_s`: so long may frame after frame fail to decode before the source counts as broken
    """

    def __init__(
        self,
        reader: Reader,
        dial: Callable[[CaptureError | SourceError], Reader] | None,
        *,
        check: Callable[[Frame], None] | None = None,
        patience_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.camera, self.live = reader.camera, reader.live
        self.frames, self.fps = reader.frames, reader.fps
        self.reconnects = 0
        self.gap_s = 0.0
        self._reader = reader
        self._dial = dial
        self._check = check
        self._patience_s = patience_s
        self._backoff = backoff or Backoff()
        self._closed = threading.Event()
        self._attempt = 0
        self._offset = self._next_seq = 0
        self._rate = reader.fps or 0.0
        self._is_away = False
        self._opened_s = self._good_s = time.monotonic()
        self._since_opened = 0

    def read(self) -> Frame | None:
        while not self._closed.is_set():
            try:
                return self._next()
            except CaptureError as error:  # noqa: PERF203 - it is what the loop is for
                if self._closed.is_set():
                    break
                if self._dial is None:
                    raise
                log.warning("%s; connecting again", error)
                self._leave()
                self._connect_again(self._dial, error)
        return None

    def close(self) -> None:
        self._closed.set()
        self._reader.close()

    def _next(self) -> Frame | None:
        try:
            frame = self._reader.read()
        except FrameError as error:
            silent_s = time.monotonic() - max(self._good_s, self._opened_s)
            if silent_s > self._patience_s:
                raise CaptureError(f"{error}, nor has any for {silent_s:.1f} s") from error
            raise
        if frame is None:
            return None
        if self._check is not None:
            self._check(frame)
        return self._count(frame)

    def _count(self, frame: Frame) -> Frame:
        """The frame under the number that it has over all connections."""
        now_s = time.monotonic()
        if self._is_away:
            self._come_back(frame, now_s - self._good_s)
        if now_s - self._opened_s > STEADY_S:
            self._attempt = 0
        self._good_s = now_s
        self._since_opened += 1
        seq = frame.seq + self._offset
        self._next_seq = seq + 1
        return frame if seq == frame.seq else dataclasses.replace(frame, seq=seq)

    def _leave(self) -> None:
        """The source is away from its last good frame on, however many attempts fail after it."""
        self._reader.close()
        held_s = self._good_s - self._opened_s
        if held_s >= _RATE_AFTER_S:
            self._rate = self._since_opened / held_s
        self._is_away = True

    def _come_back(self, frame: Frame, gap_s: float) -> None:
        self._is_away = False
        self.reconnects += 1
        self.gap_s += gap_s
        missed = max(1, round(gap_s * self._rate))
        self._offset = self._next_seq + missed - frame.seq
        log.warning("%s: back after %.1f s, about %d frames missed", self.camera, gap_s, missed)

    def _connect_again(
        self,
        dial: Callable[[CaptureError | SourceError], Reader],
        error: CaptureError | SourceError,
    ) -> None:
        """Returns with a reader that is open, or once the source is closed."""
        while not self._closed.wait(self._backoff.wait_s(self._attempt)):
            self._attempt += 1
            self._reader = dial(error)
            if self._closed.is_set():  # `close` may have seen the reader before this one
                self._reader.close()
                return
            try:
                self._reader.open()
            except (CaptureError, SourceError) as failure:
                self._reader.close()
                error = failure
                is_told = self._attempt & (self._attempt - 1) == 0  # the 1st, 2nd, 4th, 8th ...
                log.log(
                    logging.INFO if is_told else logging.DEBUG,
                    "attempt %d: %s",
                    self._attempt,
                    error,
                )
            else:
                self._opened_s, self._since_opened = time.monotonic(), 0
                return
