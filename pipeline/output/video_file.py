"""Writes results as a video file with boxes and labels drawn in."""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import InputError, OutputError
from pipeline.ffmpeg import open_file
from pipeline.files.scratch import scratch_folder
from pipeline.files.writing import PRIVATE, PartialFile, abandoned_in
from pipeline.opencv_logging import quiet_opening
from pipeline.output.drawing import annotated
from pipeline.output.files import check_target
from pipeline.output.output import Output, OutputKind
from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.text.native import utf8
from pipeline.types import Image, Result

log = logging.getLogger(__name__)

DEFAULT_FPS = 30.0
LONGEST_GAP_S = 10.0
"""A live recording repeats the last image for up to this time; a longer gap is cut out."""
LONGEST_LEAD_S = 10.0
"""A live recording is at most this much longer than real time; it skips images that run ahead."""
LONGEST_REPEAT_S = 1.0
"""Writing the repetitions may take this long; the rest is cut out."""

# The first that this OpenCV can write is used. H.264 plays everywhere but often has no encoder.
_CODECS = {
    ".mp4": ("avc1", "mp4v"),
    ".m4v": ("avc1", "mp4v"),
    ".mov": ("avc1", "mp4v"),
    ".mkv": ("avc1", "mp4v", "MJPG"),
    ".avi": ("MJPG", "XVID"),
}
_RESERVE_BYTES = 16_000_000
_CHECK_EVERY = 30


class VideoFile(Output):
    """Records results at the rate of the source, or at `fps` frames per second.

    Each result of a file becomes one frame. A recording of a live source keeps real time: by the
    capture times the last image is repeated or an image is skipped. An image of another size than
    the first is scaled to it.

    Only this user may read the recording, unless it replaces a file that others may read. Until
    `close` it has a hidden name beside `path`; an existing file is replaced only once the new one
    is complete and can be read.

    Raises `InputError` if the file cannot be written or its suffix is unknown.
    """

    name = "record"
    wants_images = True
    may_block = True

    def __init__(
        self, path: str | Path, *, fps: float | None = None, live: bool | None = None
    ) -> None:
        self._path, self._codecs = check_recording(path)
        self._wanted_fps = fps
        self._wanted_live = live
        self._fps = _rounded(fps or DEFAULT_FPS)
        self._live = bool(live)
        self._folder = os.path.dirname(os.path.realpath(self._path))
        self._partial: PartialFile | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0
        self._start_ns = 0
        self._begun_s = 0.0
        self._last: Image | None = None
        self._warned = False
        self._is_cut = False

    def start(self, source: Source[Any]) -> None:
        self._fps = _rounded(self._wanted_fps or source.fps or DEFAULT_FPS)
        self._live = source.live if self._wanted_live is None else self._wanted_live
        _warn_of_abandoned(self._path)

    def write(self, result: Result) -> None:
        image = self._fit(annotated(result))
        if not self._live:
            self._put(image)
            return
        due = self._due(result.header.stamp_ns)
        until_s = time.monotonic() + LONGEST_REPEAT_S
        while self._last is not None and self._written < due:
            if time.monotonic() > until_s:
                due = self._cut(due)
                break
            self._put(self._last)
        if self._written == due:
            self._put(image)
        self._last = image

    def close(self) -> None:
        writer, self._writer = self._writer, None
        partial, self._partial = self._partial, None
        if writer is None or partial is None:
            return
        with quiet_opening():
            writer.release()
        if not (partial.is_in_place and _is_readable(partial.path)):
            partial.discard()
            raise OutputError(
                f"--record {self._path}: the recording is not complete; "
                f"is the disk full, or was the file removed?"
            )
        try:
            partial.publish()
        except OSError as error:
            raise OutputError(
                f"--record {self._path}: cannot be renamed: {error.strerror}; "
                f"the recording is {partial.path}"
            ) from error
        finally:
            partial.close()

    def _due(self, stamp_ns: int) -> int:
        """The number of the frame that is due at the capture time."""
        if self._last is None:
            self._start_ns, self._begun_s = stamp_ns, time.monotonic()
        due = round((stamp_ns - self._start_ns) / 1e9 * self._fps)
        gap = due - self._written
        if abs(gap) > LONGEST_GAP_S * self._fps:
            if gap > 0:
                log.warning("--record: cut out %.0f s without images", gap / self._fps)
            else:
                log.warning("--record: the clock was set back by %.0f s", -gap / self._fps)
            self._start_ns += round(gap / self._fps * 1e9)
            due = self._written
        real_s = time.monotonic() - self._begun_s
        if due >= self._written and due > (real_s + LONGEST_LEAD_S) * self._fps:
            self._start_ns += round((due - self._written + 1) / self._fps * 1e9)
            return self._written - 1
        return due

    def _cut(self, due: int) -> int:
        """Cut out time that cannot be filled in time; returns the frame that is due then.

        Otherwise each image would be later than the one before, behind ever more repetitions.
        """
        if not self._is_cut:
            log.warning(
                "--record: encoding %dx%d at %g frames per second is too slow here; the recording "
                "is shorter than what was seen",
                *(*self._size, self._fps),
            )
            self._is_cut = True
        self._start_ns += round((due - self._written) / self._fps * 1e9)
        return self._written

    def _put(self, image: Image) -> None:
        # OpenCV does not report a failed write, so check the free space.
        if self._written % _CHECK_EVERY == 0:
            free = shutil.disk_usage(self._folder).free
            if free < _RESERVE_BYTES:
                raise OutputError(
                    f"--record {self._path}: the disk is full ({free} bytes left); "
                    f"stopped after {self._written} frames"
                )
        writer = self._writer = self._writer or self._open()
        writer.write(image)
        self._written += 1

    def _open(self) -> cv2.VideoWriter:
        try:
            partial = PartialFile(self._path, PRIVATE)
        except OSError as error:
            raise OutputError(
                f"--record {self._path}: cannot be written: {error.strerror}"
            ) from error
        for codec in self._codecs:  # an encoder may refuse this size and another take it
            with quiet_opening():
                writer = _writer(partial.path, codec, self._fps, self._size)
            if writer.isOpened():
                self._partial = partial
                return writer
        partial.discard()
        raise OutputError(
            f"--record {self._path}: cannot be written as {' or '.join(self._codecs)} of "
            f"{self._size[0]}x{self._size[1]} at {self._fps:g} fps"
        )

    def _fit(self, image: Image) -> Image:
        """The image at the size of the first one, with even sides, as encoders require."""
        height, width = image.shape[:2]
        if self._size == (0, 0):
            self._size = (width + width % 2, height + height % 2)
        if (width + width % 2, height + height % 2) != self._size:
            if not self._warned:
                log.warning(
                    "--record: images are now %dx%d and are scaled to %dx%d",
                    *(width, height, *self._size),
                )
                self._warned = True
            return cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]
        if (width, height) != self._size:
            return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return image


def _make(settings: Settings) -> VideoFile:
    return VideoFile(settings.record or "")


KIND = OutputKind("record", VideoFile, _make)


def _rounded(fps: float) -> float:
    """Two decimals at most, because MPEG-4 has 16 bits for the ticks of a second."""
    return round(fps, 2)


def check_recording(path: str | Path) -> tuple[Path, tuple[str, ...]]:
    """Return the path of a recording and the codecs to try; nothing is written there.

    Raises `InputError` if the file cannot be written or its suffix is unknown.
    """
    path = check_target(Path(path), "--record", is_replaced=True)
    utf8(os.path.realpath(path))
    if path.suffix.lower() not in _CODECS:
        raise InputError(
            f"--record {path}: unknown video format '{path.suffix}'; "
            f"expected one of {', '.join(_CODECS)}"
        )
    codecs = _codecs_here(path.suffix.lower())
    if not codecs:
        wanted = ", ".join(_CODECS[path.suffix.lower()])
        raise InputError(
            f"--record {path}: this OpenCV can write none of {wanted}; try another format"
        )
    return path, codecs


@lru_cache
def _codecs_here(suffix: str) -> tuple[str, ...]:
    """The codecs for such a file that this OpenCV can encode."""
    with scratch_folder() as folder, quiet_opening():
        probe = folder / f"probe{suffix}"
        return tuple(
            codec for codec in _CODECS[suffix] if _writer(probe, codec, 30.0, (64, 64)).isOpened()
        )


def _warn_of_abandoned(path: Path) -> None:
    """Name the recordings of killed runs in the folder of `path`, and remove those without data."""
    left = []
    for file in abandoned_in(Path(os.path.realpath(path)).parent):
        if file.suffix.lower() not in _CODECS:
            continue
        if os.path.getsize(file):
            left.append(file)
        else:
            file.unlink()
    if left:
        log.warning(
            "--record %s: %d unfinished recordings of runs that were killed are in its folder, "
            "such as %s; delete them if they are of no use",
            *(path, len(left), left[-1]),
        )


def _is_readable(path: Path) -> bool:
    video = open_file(path)
    with quiet_opening():
        readable = bool(video.isOpened() and video.read()[0])
        video.release()
    return readable


def _writer(path: Path, codec: str, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    fourcc = cv2.VideoWriter.fourcc(*codec)
    return cv2.VideoWriter(utf8(os.path.abspath(path)), cv2.CAP_FFMPEG, fourcc, fps, size)
