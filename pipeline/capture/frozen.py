"""Noticing a camera that gives the same picture again and again."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable

from pipeline.errors import CaptureError
from pipeline.types import Frame

log = logging.getLogger(__name__)

_EVERY = 8  # every eighth row and column: 0.05 ms for 1280x720, and a sensor's noise is everywhere


class FrozenCheck:
    """Raises `CaptureError` once pictures have been the same, bit by bit, for `limit_s` seconds.

    A sensor's noise makes every picture differ, so this is a driver that repeats its last one. What
    is still the same after the camera was opened anew is what it sees (a virtual camera, a cap on
    the lens): it passes, until the picture changes.
    """

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock_s = clock_s
        self._print: tuple[tuple[int, ...], int] | None = None
        self._since_s = 0.0
        self._is_accepted = False

    def __call__(self, frame: Frame) -> None:
        image = frame.image
        mark = (image.shape, zlib.crc32(image[::_EVERY, ::_EVERY].tobytes()))
        now_s = self._clock_s()
        if mark != self._print:
            self._print, self._since_s, self._is_accepted = mark, now_s, False
            return
        frozen_s = now_s - self._since_s
        if frozen_s > self._limit_s and not self._is_accepted:
            self._is_accepted = True
            raise CaptureError(
                f"{frame.camera}: gave the same picture for {frozen_s:.1f} s; the camera is stuck"
            )
