"""A source of the results that other processes publish, with the frames that they are on."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.transport.wire.schema import Limits
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.receiver import (
    MAX_CAMERAS,
    POLL_S,
    SILENT_S,
    Receiver,
    Subscription,
)
from pipeline.transport.zmq.reorder import ResultOrder
from pipeline.transport.zmq.subscriber import Received
from pipeline.types import Detections, Frame, Header, Result

KEPT_FRAMES = 8  # per camera; a result is at most this many frames behind its own
BEHIND_S = 0.001  # how long to wait for a frame that was sent before its result
ALONE_S = 1.0  # of frames without a result, after which they do not wait for one
PACE_S = 0.02  # a result that waited for others follows once the one before is done, or after this

log = logging.getLogger(__name__)


class ResultSubscription(Subscription[Result]):
    """A source of the results that other processes publish; the newest if the reader is slow.

    Iterating waits for results until `stop` or `close` is called. With `images`, the frames are
    subscribed to as well, and a result has its frame if that came. With `ordered`, every result is
    returned, by `seq`, although the detectors of a group send theirs in any order. With
    `frames_alone`, the frames of a camera are returned as results without objects, once they have
    come for a second without any result. For `in_turn` see `FrameSubscription`.
    """

    camera = "cameras"

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
        receiver = Receiver(
            addresses,
            frames=images,
            results=True,
            every=ordered,
            streams=2 * streams if images else streams,
            limits=limits,
            security=security,
        )
        super().__init__(receiver, in_turn)
        self._images = images
        self._ready: deque[Result] = deque()
        limits = limits or Limits()
        waiting_bytes = limits.max_pending_bytes
        self._order = ResultOrder(max_bytes=waiting_bytes) if ordered else None
        self._frames = KeptFrames(limits.max_kept_bytes)
        self._frames_alone = frames_alone
        # When the first frame came since a camera's last result, and the header of that result.
        self._unanswered_s: dict[str, float] = {}
        self._answered: dict[str, Header] = {}
        self._has_logged = False
        self._is_done = threading.Event()

    def read(self) -> Result | None:
        """Wait for the next result; None once closed."""
        if self._turns is None:
            return self._read_in_order()
        if not self._may_read():
            return None
        result = self.receive()
        if result is not None:
            self._turns.note(result.header.camera)
        return result

    def _read_in_order(self) -> Result | None:
        """The next result. One that waited for others comes once the result before is done.

        If a detector dies, the results of a second become due together, too many for a reader that
        keeps the newest.
        """
        result = self._next()
        if result is not None:
            self._is_done.wait(PACE_S)
        self._is_done.clear()
        return self.receive() if result is None else self._with_image(result)

    def done(self) -> None:
        self._is_done.set()
        super().done()

    def receive(self, timeout_s: float | None = None) -> Result | None:
        """The next result; None once closed, or if none came within `timeout_s` seconds."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while True:
            result = self._next()
            if result is not None:
                return self._with_image(result)
            left_s = deadline_s - time.monotonic()
            received = self._receiver.receive(min(left_s, POLL_S))
            if received is not None:
                self._take(received)
            elif left_s <= 0 or self._receiver.is_stopped:
                return None

    def _next(self) -> Result | None:
        """The next result that does not wait for others."""
        if self._ready:
            return self._ready.popleft()
        return self._order.get() if self._order is not None else None

    def _take(self, received: Received) -> None:
        """Store an item that came until it is due."""
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
            self._order.put(received.stream, received.item)

    def _take_frame(self, frame: Frame) -> None:
        """Store a frame for its result, or return it alone if no result comes."""
        self._frames.add(frame)
        if len(self._unanswered_s) >= MAX_CAMERAS:
            self._unanswered_s.clear()
        if frame.header == self._answered.get(frame.camera):
            return
        now_s = time.monotonic()
        alone_s = now_s - self._unanswered_s.setdefault(frame.camera, now_s)
        if self._frames_alone and alone_s > ALONE_S:
            self._ready.append(Result(frame.header, Detections.empty(())))
        elif alone_s > SILENT_S and not self._has_logged:
            self._has_logged = True
            log.info("frames of %s come, but no result on them; waiting", frame.camera)

    def __iter__(self) -> Iterator[Result]:
        while (result := self.receive()) is not None:
            yield result

    def counts(self) -> Mapping[str, Any]:
        """Those of `Subscriber` by topic under `received`, and the number of `late` results."""
        return {**super().counts(), "late": self.late}

    @property
    def late(self) -> int:
        """How many results came after a later one or twice, or still wait for others."""
        return self._order.late + self._order.waiting if self._order is not None else 0

    def _with_image(self, result: Result) -> Result:
        return dataclasses.replace(result, frame=self._frame(result))

    def _frame(self, result: Result) -> Frame | None:
        """The frame of a result, which was sent before it but may arrive after it."""
        frame = self._frames.find(result.header)
        if frame is None and self._images:
            received = self._receiver.receive(BEHIND_S)
            if received is not None:
                self._take(received)
            frame = self._frames.find(result.header)
        return frame


class KeptFrames:
    """The newest `KEPT_FRAMES` frames of each camera; at most `max_bytes` of all.

    Beyond that, the oldest of the camera whose frames take the most are dropped.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._of_camera: dict[str, deque[Frame]] = {}

    def add(self, frame: Frame) -> None:
        """Add the newest frame of its camera."""
        frames = self._of_camera.setdefault(frame.camera, deque())
        frames.append(frame)
        self._nbytes += _nbytes(frame)
        if len(frames) > KEPT_FRAMES:
            self._drop_oldest(frame.camera)
        while self._nbytes > self._max_bytes and self._nbytes > _nbytes(frame):
            self._drop_oldest(max(self._of_camera, key=self._nbytes_of))

    def find(self, header: Header) -> Frame | None:
        """The frame with this header's camera, number and time; None if it is not kept."""
        for frame in self._of_camera.get(header.camera, ()):
            if (frame.seq, frame.stamp_ns) == (header.seq, header.stamp_ns):
                return frame
        return None

    def _nbytes_of(self, camera: str) -> int:
        return sum(_nbytes(frame) for frame in self._of_camera[camera])

    def _drop_oldest(self, camera: str) -> None:
        frames = self._of_camera[camera]
        self._nbytes -= _nbytes(frames.popleft())
        if not frames:
            del self._of_camera[camera]


def _nbytes(frame: Frame) -> int:
    return frame.image.nbytes + sum(plane.nbytes for plane in frame.planes.values())
