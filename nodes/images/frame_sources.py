"""Sources for the engine: topics, and captured sources that can be paused and slowed down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nodes.images.image_messages import image_from
from nodes.messages.diagnostics import Activity
from nodes.messages.headers import (
    frame_of_capture,
    frame_of_message,
    header_of_capture,
)
from pipeline.errors import FrameError
from pipeline.runtime.mailbox import Closed, Mailbox, NewestOfEach
from pipeline.source import Source
from pipeline.types import ClockOffset, Frame


class Pace:
    """At most so many a second on average; 0 lets all pass. `max_rate` may be changed any time."""

    def __init__(self, max_rate: float) -> None:
        self.max_rate = max_rate
        self._due_s: dict[str, float] = {}

    def lets_pass(self, camera: str) -> bool:
        """Whether this camera's image of now is within the rate; counts it if so."""
        if not self.max_rate:
            return True
        now_s, due_s = time.monotonic(), self._due_s.get(camera, 0.0)
        if now_s < due_s:
            return False
        period_s = 1 / self.max_rate
        # From when it was due, so that a little lateness is made up for and the rate is kept.
        self._due_s[camera] = max(due_s, now_s - period_s) + period_s
        return True

    def wait_s(self, camera: str) -> float:
        """Seconds until an image may pass again."""
        return max(0.0, self._due_s.get(camera, 0.0) - time.monotonic()) if self.max_rate else 0.0


class TopicSource(Source[Frame]):
    """The newest image message of each camera, converted only when the engine has time for it.

    `put` is called by subscriptions: it keeps the message and returns at once. `read` converts, on
    the engine's own thread, and waits until the frame before it is `done`: while the detector is
    busy only messages are replaced by newer ones, and no picture is converted in vain.
    """

    live = True

    def __init__(
        self, activities: Mapping[str, Activity], pace: Pace, refuse: Callable[[str, str], None]
    ) -> None:
        self._activities = activities
        self._pace = pace
        self._refuse = refuse
        self._waiting: NewestOfEach[tuple[str, Any, int]] = NewestOfEach(lambda item: item[0])
        self._turns: Mailbox[None] = Mailbox(1)
        self._turns.put(None)
        self._seq = 0
        self.paused = False

    def put(self, camera: str, message: Any) -> None:
        """Take a message in."""
        activity = self._activities[camera]
        activity.last_s = time.monotonic()
        if self.paused:
            return
        activity.received += 1
        if not self._pace.lets_pass(camera):
            return
        try:
            self._waiting.put((camera, message, activity.received))
        except Closed:
            return  # the engine has ended, and the node is about to hear of it

    def read(self) -> Frame | None:
        """The next camera's newest frame; None once closed."""
        try:
            self._turns.get()
            while True:
                frame = self._converted(*self._waiting.get())
                if frame is not None:
                    return frame
        except Closed:
            return None

    def done(self) -> None:
        """The frame that was read last is dealt with; the engine calls it."""
        try:
            self._turns.put(None)
        except Closed:
            return

    def close(self) -> None:
        """End `read`; may be called twice and from any thread."""
        self._waiting.cancel()
        self._turns.cancel()

    def _converted(self, camera: str, message: Any, count: int) -> Frame | None:
        activity = self._activities[camera]
        try:
            image = image_from(message)
        except FrameError as error:
            activity.refused += 1
            self._refuse(camera, str(error))
            return None
        self._seq += 1
        return frame_of_message(image, message.header, camera, self._seq, count - activity.refused)


class CaptureSource(Source[Frame]):
    """A source of `open_source` whose frames are counted, and can be paused and slowed down.

    Of a live source the frames that are not wanted are passed over; others wait. `header` gives
    the message header that a frame's results have.
    """

    def __init__(
        self,
        source: Any,
        activity: Callable[[str], Activity],
        pace: Pace,
        header: Callable[[Frame], Any] = header_of_capture,
    ) -> None:
        self._source = source
        self._activity = activity
        self._pace = pace
        self._header = header
        self._wanted = threading.Event()
        self._wanted.set()
        self._closed = threading.Event()
        self.live = source.live
        self.camera = source.camera

    @property
    def paused(self) -> bool:
        """Whether frames are held back or passed over."""
        return not self._wanted.is_set()

    @paused.setter
    def paused(self, paused: bool) -> None:
        if paused:
            self._wanted.clear()
        else:
            self._wanted.set()

    def read(self) -> Frame | None:
        """The next wanted frame; None at the end or once closed.

        Raises what the source raises.
        """
        while not self._closed.is_set():
            if not self.live:
                self._wanted.wait()
            try:
                frame = self._source.read()
            except FrameError:
                activity = self._activity(self.camera)
                activity.received += 1
                activity.refused += 1
                raise
            if frame is None:
                return None
            if self._is_wanted(frame.camera):
                activity = self._activity(frame.camera)
                count = activity.received - activity.refused
                return frame_of_capture(frame, self._header(frame), count)
        return None

    def clock_of(self, camera: str) -> ClockOffset | None:
        """The clock that stamps a camera's frames; see `Source`."""
        clock: ClockOffset | None = self._source.clock_of(camera)
        return clock

    def done(self) -> None:
        """Pass on that the last frame was processed; see `Source`."""
        self._source.done()

    def counts(self) -> Mapping[str, Any]:
        """The source's own figures; see `Source`."""
        counts: Mapping[str, Any] = self._source.counts()
        return counts

    def close(self) -> None:
        """Let go of the source; may be called twice and from any thread."""
        self._closed.set()
        self._wanted.set()
        self._source.close()

    def _is_wanted(self, camera: str) -> bool:
        activity = self._activity(camera)
        activity.last_s = time.monotonic()
        if self.live and self.paused:
            return False
        activity.received += 1
        while not self._pace.lets_pass(camera):
            if self.live or self._closed.wait(self._pace.wait_s(camera)):
                return False
        return True
