"""Silences OpenCV's own messages and those of its libraries; our errors say it in one line."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import cv2

log = logging.getLogger(__name__)

_SILENT = 0
_FFMPEG_SILENT = "-8"

# OpenCV 4.6 has these two functions at the top.
_opencv_log = getattr(cv2.utils, "logging", cv2)

_lock = threading.Lock()
_silencers = 0
"""The number of blocks that want OpenCV silent; `_level` is the level before the first."""
_level = 0
_users: Counter[str] = Counter()
"""The number of blocks that have set each variable that the user has not set."""

_catching = threading.Lock()
_STANDARD_ERROR = 2
_MOST_CAUGHT = 1 << 20
_BY_DECODERS = re.compile(
    rb"^(Corrupt JPEG data|Premature end of JPEG|Invalid (JPEG|SOS|component|crop)|Inconsistent "
    rb"progression|Unknown Adobe|Warning: |Application transferred|libpng (warning|error))"
)
"""The beginning of the lines that libjpeg and libpng write."""


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV within this block, unless debug logging is on.

    Blocks of several threads may overlap; the last one to end restores the log level.
    """
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    _silence()
    try:
        yield
    finally:
        _end_silence()


@contextlib.contextmanager
def quiet_opening(**environment: str) -> Iterator[None]:
    """Silence OpenCV and its libraries while a device, a file or a window is opened.

    `environment` holds variables for them, set for this block only; the user's stay. Not to be used
    per frame, because other threads may read the environment meanwhile. If blocks of
    several threads set the same variable, it has the value of the later block, because the earlier
    one has been read by then, and is removed with the last block.
    """
    settings = dict(environment)
    if not log.isEnabledFor(logging.DEBUG):
        # OpenCV reads FFmpeg's level once, when it first uses FFmpeg; so it holds for the process.
        settings["OPENCV_FFMPEG_LOGLEVEL"] = _FFMPEG_SILENT
    with quiet_opencv(), _environment(settings):
        yield


@contextlib.contextmanager
def caught_messages() -> Iterator[list[str]]:
    """Catch what libjpeg and libpng write to standard error within this block.

    They tell only there that an image is damaged. The list has their lines once the block has
    ended. Blocks of several threads take turns; what other threads write meanwhile follows after.
    """
    lines: list[str] = []
    with _catching:
        try:
            screen = os.dup(_STANDARD_ERROR)
            os.dup2(_caught_file(), _STANDARD_ERROR)
        except OSError:  # there is no standard error, or no file descriptor is left
            yield lines
            return
        try:
            yield lines
        finally:
            os.dup2(screen, _STANDARD_ERROR)
            try:
                for line in _take_caught().splitlines(keepends=True):
                    if _BY_DECODERS.search(line):
                        lines.append(line.decode(errors="replace").strip())
                    else:
                        with contextlib.suppress(OSError):
                            os.write(screen, line)
            finally:
                os.close(screen)


@functools.cache
def _caught_file() -> int:
    """A file without a name that stands in for standard error."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("caught-messages")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _take_caught() -> bytes:
    file = _caught_file()
    if not os.lseek(file, 0, os.SEEK_CUR):
        return b""
    caught = os.pread(file, _MOST_CAUGHT, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    return caught


def _silence() -> None:
    global _level, _silencers  # noqa: PLW0603 - OpenCV's level is one for the process as well
    with _lock:
        if not _silencers:
            _level = _opencv_log.getLogLevel()
            _opencv_log.setLogLevel(_SILENT)
        _silencers += 1


def _end_silence() -> None:
    global _silencers  # noqa: PLW0603
    with _lock:
        _silencers -= 1
        if not _silencers:
            _opencv_log.setLogLevel(_level)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    with _lock:
        added = [name for name in settings if name in _users or name not in os.environ]
        os.environ.update({name: settings[name] for name in added})
        _users.update(added)
    try:
        yield
    finally:
        with _lock:
            _users.subtract(added)
            for name in [name for name in added if not _users[name]]:
                del _users[name]
                os.environ.pop(name, None)
