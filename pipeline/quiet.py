"""Keeping OpenCV's own lines off standard error, where our errors say it in one line."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

import cv2

log = logging.getLogger(__name__)

_FFMPEG_SILENT = "-8"


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
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # OpenCV reads FFmpeg's level once, when it first uses FFmpeg; so it holds for the process.
        with _environment({"OPENCV_FFMPEG_LOGLEVEL": _FFMPEG_SILENT, **environment}):
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    added = {name: text for name, text in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
