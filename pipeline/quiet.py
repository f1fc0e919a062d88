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
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV within this block; debug logging lets everything through."""
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    level = _opencv_log.getLogLevel()
    _opencv_log.setLogLevel(_SILENT)
    try:
        yield
    finally:
        _opencv_log.setLogLevel(level)


@contextlib.contextmanager
def quiet_opening(**environment: str) -> Iterator[None]:
    """Silence OpenCV and what lies below it while a device, a file or a window is opened.

    `environment` holds their settings for this block only. What the user has set in the
    environment wins. Not for every frame: other threads may read the environment meanwhile.
    """
    settings = dict(environment)
    if not log.isEnabledFor(logging.DEBUG):
        # OpenCV reads FFmpeg's level once, when it first uses FFmpeg; so it holds for the process.
        settings["OPENCV_FFMPEG_LOGLEVEL"] = _FFMPEG_SILENT
    with quiet_opencv(), _environment(settings):
        yield


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    added = {name: text for name, text in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
