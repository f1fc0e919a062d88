"""Finds out whether FFmpeg converted a frame to BGR, which OpenCV does not report.

FFmpeg's scaler refuses interlaced frames, and OpenCV from 4.13 on ignores that: it returns the
pixels of an earlier frame, or memory that was never written. FFmpeg only logs the refusal, so a
suspicious frame is retrieved once more while its log is read.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import cv2
import numpy as np

from pipeline.ffmpeg import libavutil
from pipeline.types import Image

ROWS = 8  # that are compared with those of the frame before
_ERROR = 16  # AV_LOG_ERROR; lower levels are worse
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_lock = threading.Lock()  # FFmpeg has one log callback for the process
_levels: dict[int, list[int]] = {}
"""The levels of FFmpeg's messages, by the thread that reads its log."""


class ConversionCheck:
    """Checks the frames of one capture, in their order.

    A frame is suspicious if it is the first one, or if some rows equal those of the frame before;
    only then it is retrieved again. Without FFmpeg's log every frame counts as converted.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._rows: Image | None = None

    def is_converted(self, image: Image) -> bool:
        """Whether `image`, which was just retrieved, holds the pixels of the grabbed frame."""
        rows = image[:: max(image.shape[0] // ROWS, 1)]
        is_suspicious = self._rows is None or np.array_equal(rows, self._rows)
        self._rows = rows.copy()
        return not is_suspicious or not _logs_errors(self._capture)


def _logs_errors(capture: cv2.VideoCapture) -> bool:
    """Whether FFmpeg logs an error when the grabbed frame is retrieved."""
    library, thread = libavutil(), threading.get_ident()
    if library is None:
        return False
    with _lock:
        _levels[thread] = []
        library.av_log_set_callback(_callback)
        try:
            capture.retrieve()
        finally:
            library.av_log_set_callback(library.av_log_default_callback)
            levels = _levels.pop(thread)
    return any(level <= _ERROR for level in levels)


def _note(_: Any, level: int, *__: Any) -> None:
    if (levels := _levels.get(threading.get_ident())) is not None:
        levels.append(level)


_callback = _Callback(_note)  # never freed, because another thread may be about to call it
