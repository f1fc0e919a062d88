"""The base of cameras and videos: an OpenCV capture that may be closed while it is being read."""

from __future__ import annotations

import abc
import threading

import cv2
import numpy as np

from pipeline.errors import FrameError
from pipeline.images import size_problem
from pipeline.opencv_logging import quiet_opencv
from pipeline.source import Source
from pipeline.types import Frame, Image

MAX_FPS = 1000.0
"""Higher rates are a container's tick rate rather than a frame rate."""
MIN_FPS = 1e-5
"""Lower rates, of less than a frame a day, are a mistake in the container."""


class OpenCVSource(Source[Frame]):
    """A source over `cv2.VideoCapture`, whose methods must never run at the same time.

    Every frame has an image of its own: a pool of buffers was measured and saves nothing, because
    the allocator reuses the same pages.
    """

    def __init__(self, capture: cv2.VideoCapture, camera: str) -> None:
        self.camera = camera
        self._capture = capture
        self._seq = 0
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if MIN_FPS <= fps <= MAX_FPS else None

    def read(self) -> Frame | None:
        try:
            with self._in_use:
                return None if self._closed.is_set() else self._read()
        finally:
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        # A reader that holds the lock checks the flag afterwards and closes instead, because
        # releasing a capture during a grab crashes the process.
        self._closed.set()
        if self._in_use.acquire(blocking=False):
            try:
                with quiet_opencv():  # OpenCV warns if the camera is gone
                    self._capture.release()
            finally:
                self._in_use.release()

    @abc.abstractmethod
    def _read(self) -> Frame | None:
        """`read`, with exclusive use of the capture."""

    def _retrieve(self, seq: int) -> Image:
        """Decode the grabbed frame; raises `FrameError` if that fails."""
        try:
            ok, image = self._capture.retrieve()
        except cv2.error as error:
            raise FrameError(f"{self.camera}: frame {seq} does not decode: {error.err}") from error
        if not ok or image is None or image.size == 0:
            raise FrameError(f"{self.camera}: frame {seq} does not decode")
        image = self._arrange(image)
        if problem := size_problem(image.shape[1], image.shape[0]):
            raise FrameError(f"{self.camera}: frame {seq} has {problem}")
        channels = 1 if image.ndim == 2 else image.shape[2]
        if channels not in {1, 3} or image.dtype != np.uint8:
            raise FrameError(
                f"{self.camera}: frame {seq} must be an image of 8-bit channels, "
                f"but got shape {image.shape} of {image.dtype}"
            )
        colors: Image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if channels == 1 else image
        return colors

    def _arrange(self, image: Image) -> Image:
        """The image as rows and columns, if OpenCV returns something else."""
        return image


def size_of(capture: cv2.VideoCapture) -> tuple[int, int]:
    """Width and height in pixels, as the device or the file states them."""
    width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    return int(capture.get(width)), int(capture.get(height))


def open_parameters(**properties: float) -> list[int]:
    """`CAP_PROP_` settings for `cv2.VideoCapture`, without those unknown to this OpenCV."""
    parameters = []
    for name, number in properties.items():
        key = getattr(cv2, f"CAP_PROP_{name}", None)
        if key is not None:
            parameters += [int(key), int(number)]
    return parameters
