"""Sources of frames for the nodes: image topics, and captures that can pause and limit the rate."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.clock import Clock
from std_msgs.msg import Header as HeaderMessage

from nodes.images.image_messages import image_from
from nodes.messages.diagnostics import Activity
from nodes.messages.headers import Origin, header_message, stamp_ns
from nodes.parameters import Parameters
from pipeline.errors import FrameError
from pipeline.runtime.mailbox import Closed, Mailbox, NewestOfEach
from pipeline.source import Source, SourceWrapper
from pipeline.sources import open_source
from pipeline.types import Frame


class RateLimit:
    """Limits each camera to `max_rate` images per second; 0 for no limit."""

    def __init__(self, max_rate: float) -> None:
        self.max_rate = max_rate
        self._due_s: dict[str, float] = {}

    def admits(self, camera: str) -> bool:
        """Whether this camera's image is within the rate now; if so, count it."""
        if not self.max_rate:
            return True
        now_s, due_s = time.monotonic(), self._due_s.get(camera, 0.0)
        if now_s < due_s:
            return False
        period_s = 1 / self.max_rate
        # Count from the due time, so that a late image does not lower the rate.
        self._due_s[camera] = max(due_s, now_s - period_s) + period_s
        return True

    def wait_s(self, camera: str) -> float:
        """Seconds until the next image of this camera is admitted."""
        return max(0.0, self._due_s.get(camera, 0.0) - time.monotonic()) if self.max_rate else 0.0


class TopicSource(Source[Frame]):
    """The newest image message of each camera, converted when the pipeline is ready for it.

    Subscriptions call `put`, which keeps the message and returns at once. `read` converts it on the
    pipeline's thread, after the frame before it is `done`: a busy detector costs no conversions,
    because a newer message replaces the waiting one. `on_bad` gets the camera and the reason of an
    unreadable message.
    """

    camera = ""
    live = True

    def __init__(
        self,
        activities: Mapping[str, Activity],
        limit: RateLimit,
        on_bad: Callable[[str, str], None],
    ) -> None:
        self.paused = False
        self._activities = activities
        self._limit = limit
        self._on_bad = on_bad
        self._messages: NewestOfEach[tuple[str, Any, int]] = NewestOfEach(lambda item: item[0])
        self._permits: Mailbox[None] = Mailbox(1)
        self._permits.put(None)
        self._seq = 0

    def put(self, camera: str, message: Any) -> None:
        """Accept an image message."""
        activity = self._activities[camera]
        activity.last_s = time.monotonic()
        if self.paused:
            return
        activity.received += 1
        if not self._limit.admits(camera):
            return
        try:
            self._messages.put((camera, message, activity.received))
        except Closed:
            return  # the pipeline has ended; the node is notified by the SourceRunner

    def read(self) -> Frame | None:
        """Wait for the newest frame of the next camera; None once closed."""
        try:
            self._permits.get()
            while True:
                frame = self._frame_of(*self._messages.get())
                if frame is not None:
                    return frame
        except Closed:
            return None

    def done(self) -> None:
        try:
            self._permits.put(None)
        except Closed:
            return

    def close(self) -> None:
        self._messages.cancel()
        self._permits.cancel()

    def _frame_of(self, camera: str, message: Any, count: int) -> Frame | None:
        activity = self._activities[camera]
        try:
            image = image_from(message)
            origin = Origin(message.header, count - activity.refused)
            frame = Frame(image, stamp_ns(message.header), self._seq + 1, camera, origin=origin)
        except (FrameError, ValueError) as error:  # ValueError: a stamp before 1970
            activity.refuse(str(error))
            self._on_bad(camera, str(error))
            return None
        self._seq += 1
        return frame


class CaptureSource(SourceWrapper[Frame]):
    """A source whose frames are counted, and that can pause and limit the rate.

    If the source is live, unwanted frames are dropped; otherwise they wait. `header` makes the
    message header of a frame.
    """

    def __init__(
        self,
        source: Source[Frame],
        activity: Callable[[str], Activity],
        limit: RateLimit,
        header: Callable[[Frame], HeaderMessage],
    ) -> None:
        super().__init__(source)
        self._activity = activity
        self._limit = limit
        self._header = header
        self._running = threading.Event()
        self._running.set()
        self._closed = threading.Event()

    @property
    def paused(self) -> bool:
        """Whether live frames are dropped, and others wait."""
        return not self._running.is_set()

    @paused.setter
    def paused(self, paused: bool) -> None:
        if paused:
            self._running.clear()
        else:
            self._running.set()

    def read(self) -> Frame | None:
        """Wait for the next wanted frame; None at the end or once closed.

        Raises what the source raises.
        """
        while not self._closed.is_set():
            if not self.live:
                self._running.wait()
            try:
                frame = self._source.read()
            except FrameError as error:
                activity = self._activity(self.camera)
                activity.received += 1
                activity.refuse(str(error))
                raise
            if frame is None:
                return None
            if self._is_wanted(frame.camera):
                activity = self._activity(frame.camera)
                origin = Origin(self._header(frame), activity.received - activity.refused)
                return dataclasses.replace(frame, origin=origin)
        return None

    def close(self) -> None:
        self._closed.set()
        self._running.set()
        super().close()

    def _is_wanted(self, camera: str) -> bool:
        activity = self._activity(camera)
        activity.last_s = time.monotonic()
        if self.live and self.paused:
            return False
        activity.received += 1
        while not self._limit.admits(camera):
            if self.live or self._closed.wait(self._limit.wait_s(camera)):
                return False
        return True


NodeSource = TopicSource | CaptureSource
"""What a node's pipeline reads; `paused` pauses it."""


def open_capture(
    parameters: Parameters, clock: Clock, activity: Callable[[str], Activity], limit: RateLimit
) -> CaptureSource:
    """Open the source that the parameters name; files are played at their own rate.

    Waits for the source. Raises `SourceError` if it cannot be opened.
    """
    source = open_source(
        parameters["source"],
        width=parameters["width"] or None,
        height=parameters["height"] or None,
        fps=parameters["fps"] or None,
        fourcc=parameters["fourcc"] or None,
        open_timeout_s=parameters["open_timeout"],
        real_time=True,
    )
    return CaptureSource(
        source, activity, limit, lambda frame: _header(frame, clock, parameters["frame_id"])
    )


def _header(frame: Frame, clock: Clock, frame_id: str) -> HeaderMessage:
    """The header of a captured frame, stamped by the node's clock, which may be a simulated one.

    A recording is published as if it were live: its frames are stamped with the time of reading.
    """
    stamp = frame.header.age_start_ns
    if clock.ros_time_is_active:
        stamp = max(0, clock.now().nanoseconds - (time.time_ns() - stamp))
    return header_message(stamp, frame_id or frame.camera)
