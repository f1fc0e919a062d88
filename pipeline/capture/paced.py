"""Files played as a camera would give them: each frame when its time has come."""

from __future__ import annotations

import threading
import time

from pipeline.source import Source
from pipeline.types import Frame

DEFAULT_FPS = 30.0


class Paced(Source[Frame]):
    """Gives the frames of a source that is not live never faster than at `fps`.

    None stands for the source's own rate, and for `DEFAULT_FPS` where pictures have none.
    """

    def __init__(self, source: Source[Frame], fps: float | None = None) -> None:
        fps = fps or source.fps or DEFAULT_FPS
        self._source = source
        self.camera, self.live, self.frames, self.fps = source.camera, False, source.frames, fps
        self._closed = threading.Event()
        self._period_s = 1 / fps
        self._due_s = 0.0

    def read(self) -> Frame | None:
        now_s = time.monotonic()
        # Who was late for one frame does not hurry the next ones.
        self._due_s = max(self._due_s, now_s)
        if self._closed.wait(self._due_s - now_s):
            return None
        self._due_s += self._period_s
        return self._source.read()

    def close(self) -> None:
        self._closed.set()
        self._source.close()
