"""Cameras and streams as pipelines read them: watched for hangs, and reopened when they break."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.capture.readers import ChildReader, HangError, Reader, Request, ThreadReader
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source
from pipeline.types import Frame

log = logging.getLogger(__name__)

HANG_GRACE_S = 5.0
"""The driver and the decoder may take this much longer than their own timeouts."""
FROZEN_LIMIT_S = 5.0
STEADY_S = 10.0
"""After a connection of this length the next loss starts again with short waits."""
_RATE_AFTER_S = 1.0  # a shorter connection says little about the rate
_FROZEN_STEP = 8  # every eighth row and column: 0.05 ms for 1280x720; sensor noise is everywhere

Failure = CaptureError | SourceError


def open_live(
    connect: Callable[[Request], Source[Frame]],
    request: Request,
    *,
    subject: str,
    reconnect: bool = True,
    locate: Callable[[str], str] = str,
    may_freeze: bool = False,
) -> Source[Frame]:
    """Open the source that `connect` opens for `request`; it is watched, and reconnects if live.

    - `connect`: a function at the top of its module, because a child process may import it
    - `subject`: names the source in messages
    - `reconnect`: the default of the option of that name
    - `locate`: gives the lasting name of a source, under which it is reopened
    - `may_freeze`: whether equal images mean a broken device

    Raises `SourceError`.
    """
    options = request.options
    dialer = Dialer(request, connect, subject, options.isolate)
    reader = dialer()
    try:
        reader.open()
    except CaptureError as error:
        raise SourceError(str(error)) from error
    if not reader.live:
        return reader
    dialer.request = Request(
        locate(request.text), dataclasses.replace(options, camera=reader.camera), again=True
    )
    return Reconnecting(
        reader,
        dialer if (reconnect if options.reconnect is None else options.reconnect) else None,
        check=FrozenCheck(FROZEN_LIMIT_S) if may_freeze else None,
        patience_s=options.read_timeout_s,
    )


class Dialer:
    """Makes readers for one request: on a thread, and after one has hung in a child process.

    A child costs 70 MB and a copy of every frame, so it is used only if necessary; a thread that
    hangs keeps its memory and maybe its core, so there is at most one.
    """

    def __init__(
        self,
        request: Request,
        connect: Callable[[Request], Source[Frame]],
        subject: str,
        isolate: bool,
    ) -> None:
        self.request = request
        self._connect = connect
        self._subject = subject
        self._isolate = isolate

    def __call__(self, failure: Failure | None = None) -> Reader:
        if isinstance(failure, HangError):
            self._isolate = True
        options = self.request.options
        read_limit_s = options.read_timeout_s + HANG_GRACE_S
        open_limit_s = options.open_timeout_s + read_limit_s  # a stream's first frames are read
        make = ChildReader if self._isolate else ThreadReader
        return make(
            self._connect,
            self.request,
            self._subject,
            open_limit_s=open_limit_s,
            read_limit_s=read_limit_s,
        )


@dataclasses.dataclass(frozen=True)
class Backoff:
    """The wait before attempt `n`, counted from 0: random, up to a limit that doubles.

    Full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015): robots that lost the same
    server do not all return at the same moment.
    """

    first_s: float = 0.5
    longest_s: float = 5.0
    random: random.Random = dataclasses.field(default_factory=random.Random)

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait, uniformly from 0 to `first_s` * 2^attempt or `longest_s`."""
        return self.random.uniform(0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))


class Reconnecting(Source[Frame]):
    """A live source over readers: when one breaks, `dial` makes the next.

    `seq` jumps by the frames that would have come during a gap at the rate so far, by at least
    one, so a gap still means lost frames. `counts` gives the number and the length of the gaps.

    - `reader`: open already; its name, rate and length are those of the source
    - `dial`: makes a reader that is not open yet, given the failure; None: raise the failure
    - `check`: called with every frame; raises `CaptureError` if it shows a broken device
    - `patience_s`: the source counts as broken if no frame decodes for this long
    """

    def __init__(
        self,
        reader: Reader,
        dial: Callable[[Failure], Reader] | None,
        *,
        check: Callable[[Frame], None] | None = None,
        patience_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.camera, self.live = reader.camera, reader.live
        self.frames, self.fps = reader.frames, reader.fps
        self._reconnects = 0
        self._gap_s = 0.0
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
            except CaptureError as error:  # noqa: PERF203 - the loop exists for it
                if self._closed.is_set():
                    break
                if self._dial is None:
                    raise
                log.warning("%s; reconnecting", error)
                self._leave()
                self._reconnect(self._dial, error)
        return None

    def close(self) -> None:
        self._closed.set()
        self._reader.close()

    def counts(self) -> Mapping[str, Any]:
        return {"reconnects": self._reconnects, "gap_s": round(self._gap_s, 3)}

    def _next(self) -> Frame | None:
        try:
            frame = self._reader.read()
        except FrameError as error:
            silent_s = time.monotonic() - max(self._good_s, self._opened_s)
            if silent_s > self._patience_s:
                raise CaptureError(f"{error}; no frame decodes for {silent_s:.1f} s") from error
            raise
        if frame is None:
            return None
        if self._check is not None:
            self._check(frame)
        return self._renumber(frame)

    def _renumber(self, frame: Frame) -> Frame:
        """The frame with its number over all connections."""
        now_s = time.monotonic()
        if self._is_away:
            self._return(frame, now_s - self._good_s)
        if now_s - self._opened_s > STEADY_S:
            self._attempt = 0
        self._good_s = now_s
        self._since_opened += 1
        seq = frame.seq + self._offset
        self._next_seq = seq + 1
        return frame if seq == frame.seq else dataclasses.replace(frame, seq=seq)

    def _leave(self) -> None:
        """Close the reader; the gap counts from its last good frame on."""
        self._reader.close()
        held_s = self._good_s - self._opened_s
        if held_s >= _RATE_AFTER_S:
            self._rate = self._since_opened / held_s
        self._is_away = True

    def _return(self, frame: Frame, gap_s: float) -> None:
        self._is_away = False
        self._reconnects += 1
        self._gap_s += gap_s
        missed = max(1, round(gap_s * self._rate))
        self._offset = self._next_seq + missed - frame.seq
        log.warning(
            "%s: reconnected after %.1f s, about %d frames missed", self.camera, gap_s, missed
        )

    def _reconnect(self, dial: Callable[[Failure], Reader], error: Failure) -> None:
        """Return with an open reader, or once the source is closed."""
        while not self._closed.wait(self._backoff.wait_s(self._attempt)):
            self._attempt += 1
            self._reader = dial(error)
            if self._closed.is_set():  # `close` may have closed the reader before this one
                self._reader.close()
                return
            try:
                self._reader.open()
            except (CaptureError, SourceError) as failure:
                self._reader.close()
                error = failure
                is_logged = self._attempt & (self._attempt - 1) == 0  # the 1st, 2nd, 4th, 8th ...
                level = logging.INFO if is_logged else logging.DEBUG
                log.log(level, "%s; reconnecting (attempt %d)", error, self._attempt)
            else:
                self._opened_s, self._since_opened = time.monotonic(), 0
                return


class FrozenCheck:
    """Raises `CaptureError` once images have been equal, bit by bit, for `limit_s` seconds.

    Sensor noise makes every image differ, so equal ones come from a driver that repeats its last
    one. An image that is the same after the camera was reopened is what the camera sees (a virtual
    camera, a lens cap): it is accepted until the image changes.
    """

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock_s = clock_s
        self._print: tuple[tuple[int, ...], int] | None = None
        self._since_s = 0.0
        self._is_accepted = False

    def __call__(self, frame: Frame) -> None:
        image = frame.image
        mark = (image.shape, zlib.crc32(image[::_FROZEN_STEP, ::_FROZEN_STEP].tobytes()))
        now_s = self._clock_s()
        if mark != self._print:
            self._print, self._since_s, self._is_accepted = mark, now_s, False
            return
        frozen_s = now_s - self._since_s
        if frozen_s > self._limit_s and not self._is_accepted:
            self._is_accepted = True
            raise CaptureError(
                f"{frame.camera}: delivered the same image for {frozen_s:.1f} s; "
                f"the camera is stuck"
            )
