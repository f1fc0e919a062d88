"""What cameras and videos share: an OpenCV capture that may be closed while it is being read."""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import threading
from collections.abc import Iterator

import cv2

from pipeline.capture.source import Source
from pipeline.errors import FrameError
from pipeline.types import Frame, Image

log = logging.getLogger(__name__)

MAX_FPS = 1000.0
"""Rates above it are a container's tick rate rather than a rate of pictures."""

_FFMPEG_SILENT = "-8"


class OpenCVSource(Source):
    """A source over `cv2.VideoCapture`, whose methods must never run at the same time.

    Every frame gets a picture of its own: a pool of buffers was measured and saves nothing, since
    the allocator hands the same pages out again.
    """

    def __init__(self, capture: cv2.VideoCapture, camera: str) -> None:
        self.camera = camera
        self._capture = capture
        self._seq = 0
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps <= MAX_FPS else None

    def read(self) -> Frame | None:
        try:
            with self._in_use:
                return None if self._closed.is_set() else self._read()
        finally:
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        # A reader that holds the lock sees the flag afterwards and closes in our place, because
        # releasing a capture under a running grab crashes the process.
        self._closed.set()
        if self._in_use.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._in_use.release()

    @abc.abstractmethod
    def _read(self) -> Frame | None:
        """`read`, alone on the capture."""

    def _retrieve(self, seq: int) -> Image:
        """Decode the grabbed frame; raises `FrameError` where that fails."""
        try:
            ok, image = self._capture.retrieve()
        except cv2.error as error:
            raise FrameError(f"{self.camera}: frame {seq} does not decode: {error.err}") from error
        if not ok or image is None or image.size == 0:
            raise FrameError(f"{self.camera}: frame {seq} does not decode")
        if image.ndim == 2 or image.shape[2] == 1:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]
        if image.shape[2] != 3:
            raise FrameError(f"{self.camera}: frame {seq} has {image.shape[2]} channels, not 3")
        return image  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet_opencv(**environment: str) -> Iterator[None]:
    """Keep OpenCV's and FFmpeg's own lines off standard error: our errors say it in one line.

    `environment` holds OpenCV's settings for this block only. What the user has set in the
    environment wins; with debug logging everything is let through.
    """
    if log.isEnabledFor(logging.DEBUG):
        with _environment(environment):
            yield
        return
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # OpenCV reads the level once, when it first uses FFmpeg, so it holds for the process.
        with _environment({"OPENCV_FFMPEG_LOGLEVEL": _FFMPEG_SILENT, **environment}):
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    added = {name: text for name, text in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def open_parameters(**properties: float) -> list[int]:
    """`CAP_PROP_` settings for `cv2.VideoCapture`, less those that this OpenCV does not know."""
    parameters = []
    for name, number in properties.items():
        key = getattr(cv2, f"CAP_PROP_{name}", None)
        if key is not None:
            parameters += [int(key), int(number)]
    return parameters
