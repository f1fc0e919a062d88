"""Recordings played in real time."""

from __future__ import annotations

import dataclasses
import threading
import time

from pipeline.source import Source, SourceWrapper
from pipeline.types import Frame


class Paced(SourceWrapper[Frame]):
    """Plays a recording in real time: each frame comes when its time has come, as from a camera.

    The time between two frames is the difference of their stamps; a frame that is read late does
    not hurry the following ones. `read_ns` is the moment at which a frame is due. Frames that are
    not of a recording pass at once.
    """

    def __init__(self, source: Source[Frame]) -> None:
        super().__init__(source)
        self._closed = threading.Event()
        self._due_s = 0.0
        self._last_ns: int | None = None

    def read(self) -> Frame | None:
        frame = self._source.read()
        if frame is None or not frame.recorded:
            return frame
        now_s = time.monotonic()
        if self._last_ns is not None:
            self._due_s += max(frame.stamp_ns - self._last_ns, 0) / 1e9
        self._last_ns = frame.stamp_ns
        self._due_s = max(self._due_s, now_s)
        if self._closed.wait(self._due_s - now_s):
            return None
        return dataclasses.replace(frame, read_ns=time.time_ns())

    def close(self) -> None:
        self._closed.set()
        super().close()
