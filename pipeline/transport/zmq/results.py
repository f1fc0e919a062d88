"""Another process's results to iterate over, with the frames that they are on."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from pipeline.source import Source
from pipeline.transport.wire.messages import Limits
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.receiver import (
    MAX_CAMERAS,
    POLL_S,
    SILENT_S,
    Subscription,
    Turnstile,
)
from pipeline.transport.zmq.reorder import InSequence
from pipeline.transport.zmq.subscriber import Received
from pipeline.types import ClockOffset, Detections, Frame, Header, Result

KEPT_FRAMES = 8  # per camera; a result is so many frames behind its image at most
BEHIND_S = 0.001  # what was sent before a result is waited for so long
ALONE_S = 1.0  # of frames without a result, after which they need not wait for any
PACE_S = 0.02  # what was held back for another follows the one before at once, or after so long

log = logging.getLogger(__name__)


class ResultSubscription(Source[Result]):
    """The results that other processes publish; the newest where the reader is slow.

    Iterating waits for results until `stop` or `close` is called. With `images` the frames are
    subscribed to as well, and a result has its image where that came. With `ordered`, every result
    is given, by `seq`, where detectors that take turns send theirs in any order. With
    `frames_alone` the frames of a camera are given without any object, where they have come for a
    second and no result on one.

    It can serve as a source of results: `read` waits for the next one, with `in_turn` and several
    cameras until the one before is `done`; see `FrameSubscription`.
    """

    live = True
    frames: int | None = None
    fps: float | None = None

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        images: bool = False,
        ordered: bool = False,
        frames_alone: bool = False,
        in_turn: bool = False,
        streams: int = 1,
        limits: Limits | None = None,
        security: Security | None = None,
    ) -> None:
        self._subscription = Subscription(
            addresses,
            frames=images,
            results=True,
            every=ordered,
            streams=2 * streams if images else streams,
            limits=limits,
            security=security,
        )
        self._images = images
        self._ready: deque[Result] = deque()
        self._order = InSequence() if ordered else None
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(
            lambda: deque(maxlen=KEPT_FRAMES)
        )
        self._frames_alone = frames_alone
        # When the first frame came since a camera's last result, and what that result is on.
        self._unanswered_s: dict[str, float] = {}
        self._answered: dict[str, Header] = {}
        self._has_told = False
        self._is_done = threading.Event()
        self._turnstile = Turnstile() if in_turn else None

    def read(self) -> Result | None:
        """The next result; None once closed."""
        if self._turnstile is None:
            return self._read_in_order()
        while not self._turnstile.pass_through():
            if self._subscription.is_stopped:
                return None
        result = self.receive()
        if result is not None:
            self._turnstile.note(result.header.camera)
        return result

    def _read_in_order(self) -> Result | None:
        """The next result, where it has only waited for others once the one before is done.

        Those of a second become due together where a detector has died, too many to be kept by a
        reader that keeps the newest.
        """
        result = self._next()
        if result is not None:
            self._is_done.wait(PACE_S)
        self._is_done.clear()
        return self.receive() if result is None else self._with_image(result)

    def done(self) -> None:
        """What was read is dealt with."""
        self._is_done.set()
        if self._turnstile is not None:
            self._turnstile.done()

    def receive(self, timeout_s: float | None = None) -> Result | None:
        """The next result; None once closed, or where none came within `timeout_s` seconds."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while True:
            result = self._next()
            if result is not None:
                return self._with_image(result)
            left_s = deadline_s - time.monotonic()
            received = self._subscription.receive(min(left_s, POLL_S))
            if received is not None:
                self._take(received)
            elif left_s <= 0 or self._subscription.is_stopped:
                return None

    def _next(self) -> Result | None:
        """The next result that need not wait for others."""
        if self._ready:
            return self._ready.popleft()
        return self._order.get() if self._order is not None else None

    def _take(self, received: Received) -> None:
        """Keep what came for when its turn comes."""
        if isinstance(received.item, Frame):
            self._take_frame(received.item)
            return
        if len(self._answered) >= MAX_CAMERAS:
            self._answered.clear()
        self._unanswered_s.pop(received.header.camera, None)
        self._answered[received.header.camera] = received.item.header
        if self._order is None:
            self._ready.append(received.item)
        else:
            self._order.put(received.header.sender, received.item)

    def _take_frame(self, frame: Frame) -> None:
        """Keep a frame for its result; where none is to be expected, this is all there is."""
        if len(self._frames) >= MAX_CAMERAS and frame.camera not in self._frames:
            self._frames.clear()
            self._unanswered_s.clear()
        self._frames[frame.camera].append(frame)
        if frame.header == self._answered.get(frame.camera):
            return
        now_s = time.monotonic()
        alone_s = now_s - self._unanswered_s.setdefault(frame.camera, now_s)
        if self._frames_alone and alone_s > ALONE_S:
            self._ready.append(Result(frame.header, Detections.empty(())))
        elif alone_s > SILENT_S and not self._has_told:
            self._has_told = True
            log.info("frames of %s come, but no result on them; waiting for it", frame.camera)

    def clock_of(self, camera: str) -> ClockOffset | None:
        """How far the clock that stamps a camera's frames is ahead of this machine's.

        None where that is not known (yet).
        """
        return self._subscription.clock_of(camera)

    def __iter__(self) -> Iterator[Result]:
        while (result := self.receive()) is not None:
            yield result

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened to the messages so far, by topic; see `Subscriber`."""
        return self._subscription.counts()

    @property
    def late(self) -> int:
        """How many results came behind a later one or twice, or still waited for their turn."""
        return self._order.late + self._order.waiting if self._order is not None else 0

    def stop(self) -> None:
        """End the iteration; takes no lock, so a signal handler may call it."""
        self._subscription.stop()

    def close(self) -> None:
        """Let go of the socket; may be called twice, and from another thread."""
        self._subscription.close()

    def __enter__(self) -> ResultSubscription:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _with_image(self, result: Result) -> Result:
        return dataclasses.replace(result, frame=self._frame(result))

    def _frame(self, result: Result) -> Frame | None:
        """The frame of a result, which was sent before it but may arrive after it."""
        frame = self._kept_frame(result)
        if frame is None and self._images:
            received = self._subscription.receive(BEHIND_S)
            if received is not None:
                self._take(received)
            frame = self._kept_frame(result)
        return frame

    def _kept_frame(self, result: Result) -> Frame | None:
        wanted = result.header
        for frame in self._frames[wanted.camera]:
            if (frame.seq, frame.stamp_ns) == (wanted.seq, wanted.stamp_ns):
                return frame
        return None
