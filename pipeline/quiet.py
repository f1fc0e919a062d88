"""Keeping OpenCV's own lines off standard error, where our errors say it in one line."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

import cv2

log = logging.getLogger(__name__)

_SILENT = 0
_FFMPEG_SILENT = "-8"

# OpenCV 4.6 has these two functions at the top.
_opencv_log = getattr(cv2.utils, "logging", cv2)


@contextlib.contextmanager
def quiet_opencv(**environment: str) -> Iterator[None]:
    """Silence OpenCV and FFmpeg within this block; debug logging lets everything through.

    `environment` holds OpenCV's settings for this block only. What the user has set in the
    environment wins.
    """
    if log.isEnabledFor(logging.DEBUG):
        with _environment(environment):
            yield
        return
    level = _opencv_log.getLogLevel()
    _opencv_log.setLogLevel(_SILENT)
    try:
        # OpenCV reads FFmpeg's level once, when it first uses FFmpeg; so it holds for the process.
        with _environment({"OPENCV_FFMPEG_LOGLEVEL": _FFMPEG_SILENT, **environment}):
            yield
    finally:
        _opencv_log.setLogLevel(level)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    added = {name: text for name, text in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
