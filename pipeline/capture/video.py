"""Video files, and streams over http and rtsp, decoded by FFmpeg inside OpenCV."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2

from pipeline.capture.opencv import OpenCVSource, open_parameters
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.opencv_logging import quiet_opencv, quiet_opening
from pipeline.source import safe_name
from pipeline.types import Frame

log = logging.getLogger(__name__)

SCHEMES = ("http", "https", "rtsp", "rtsps")
MAX_LOST = 100
"""So many frames in a row that do not decode mean that nothing good will come any more."""

# TCP, because a lost UDP packet smears the picture until the next key frame; frames in the order
# that they come. Not FFmpeg's `nobuffer`: it throws away what it read to learn the format, and the
# first key frame with it, and a reader that never waits has drained that much in no time.
# And no frames read ahead only to guess the rate: that takes 0.3 s off a second of opening.
_RTSP_OPTIONS = "rtsp_transport;tcp|flags;low_delay|fpsprobesize;0"
_DEFAULT_PORT = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_TEXT_FORMATS = (b"v=0", b"#EXTM3U", b"ffconcat")
_SILENCE_S = 1.0  # a grab that fails sooner did not fail for want of data
_PROBE_TIMEOUT_S = 1.0
_BACKLOG_LIMIT_S = {"rtsp": 3.0, "http": 1.0}
_USUAL_FPS = 25.0
_PACED = 0.4  # of the time between two pictures; OpenCV takes http for 25 a second, whatever it is


class Video(OpenCVSource):
    """A file (every frame counts) or a stream of unknown length (live)."""

    def __init__(
        self,
        capture: cv2.VideoCapture,
        camera: str,
        subject: str,
        read_timeout_s: float = math.inf,
    ) -> None:
        super().__init__(capture, camera)
        self._silence_s = min(_SILENCE_S, 0.8 * read_timeout_s)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if count > 0 else None
        self.live = False
        self._subject = subject
        self._first_ms: float | None = None
        self._last_ms = 0.0
        self._lost = 0

    def skip_backlog(self, limit_s: float) -> int:
        """Pass over what piled up before anyone read it; returns how many frames that were.

        Such frames come faster than they were taken: their arrivals lie closer together than their
        presentation times. Two in a row that do not are the end of it, or `limit_s` seconds.
        """
        deadline_s = time.monotonic() + limit_s
        paced = skipped = 0
        arrived_ms = position_ms = math.inf
        while paced < 2 and time.monotonic() < deadline_s:
            if not self._grab():
                return skipped
            skipped += 1
            now_ms, then_ms = 1000 * time.monotonic(), self._capture.get(cv2.CAP_PROP_POS_MSEC)
            step_ms = then_ms - position_ms
            if step_ms <= 0:  # some versions do not tell the time of http's pictures
                step_ms = 1000 / (self.fps or _USUAL_FPS)
            is_paced = now_ms - arrived_ms >= _PACED * step_ms
            paced = paced + 1 if is_paced else 0
            arrived_ms, position_ms = now_ms, then_ms
        return skipped

    def _grab(self) -> bool:
        """Whether there is a next frame; a loss is raised as `_nothing_came` does."""
        started = time.monotonic()
        with quiet_opencv():
            ok = self._capture.grab()
        if not ok:
            self._nothing_came(time.monotonic() - started)
        return bool(ok)

    def _read(self) -> Frame | None:
        if not self._grab():
            return None
        stamp_ns = time.time_ns()
        seq, self._seq = self._seq, self._seq + 1
        self._lost = 0
        position_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._first_ms is None:
            self._first_ms = position_ms
        # Older versions say 0 for the last frames.
        self._last_ms = max(self._last_ms, position_ms)
        return Frame(self._retrieve(seq), stamp_ns, seq, self.camera)

    def _nothing_came(self, waited_s: float) -> None:
        """The end of the file is no error; a lost frame and the end of a live stream are."""
        if self.live or waited_s > self._silence_s:
            why = f"sent nothing for {waited_s:.1f} s" if waited_s > self._silence_s else "ended"
            raise CaptureError(f"{self._subject}: the stream {why}; after {self._seq} frames")
        missing_s = self._missing_s()
        if missing_s <= 0:
            return
        self._lost += 1
        if self._lost > MAX_LOST:
            raise CaptureError(
                f"{self._subject}: nothing decodes from frame {self._seq - self._lost + 1} on, "
                f"{missing_s:.1f} s before the end; the file is cut off or damaged"
            )
        seq, self._seq = self._seq, self._seq + 1
        raise FrameError(f"{self._subject}: frame {seq} does not decode")

    def _missing_s(self) -> float:
        """Seconds of the video that should still come, 0 where that is within what files misstate.

        Told by time rather than by count: of files with a varying rate the count is a guess.
        """
        if self.frames is None or self.fps is None:
            return 0.0
        duration_s = self.frames / self.fps
        if self._first_ms is None:
            return duration_s
        missing_s = duration_s - (self._last_ms - self._first_ms) / 1000
        return missing_s if missing_s > max(1.0, 0.05 * duration_s) else 0.0


def open_video(path: Path, *, camera: str | None = None) -> Video:
    """Open a video file, every frame of which counts.

    Raises `SourceError` where the file cannot be read or is no video.
    """
    _check_readable(path)
    with quiet_opening():
        # An absolute path cannot be mistaken for a protocol. One thread decodes with less CPU time
        # than several and, at the sizes detectors see, no slower.
        capture = cv2.VideoCapture(
            os.path.abspath(path), cv2.CAP_FFMPEG, open_parameters(N_THREADS=1)
        )
    if not capture.isOpened():
        raise SourceError(
            f"{path}: not a video that can be read; its format is unknown, or the file is cut off"
        )
    return Video(capture, camera or safe_name(path.stem), str(path))


def _check_readable(path: Path) -> None:
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no ordinary file; expected a video")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise SourceError(f"{path}: the file is empty; expected a video")
    # FFmpeg would play some text files as pictures of a terminal.
    if not head.startswith(_TEXT_FORMATS) and _is_text(head):
        raise SourceError(f"{path}: the file is text; expected a video")


def _is_text(head: bytes) -> bool:
    return not set(head) & (set(range(32)) - set(b"\t\n\v\f\r\x1b"))


def check_address(url: str) -> str:
    """The address of a stream without its user name and password, fit for messages.

    Raises `SourceError` where it is none.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SourceError(f"source '{url}': not a valid address: {error}") from error
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def open_stream(
    url: str,
    *,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 5.0,
    camera: str | None = None,
    skip_backlog: bool = False,
) -> Video:
    """Open an http or rtsp stream; live, unless the server sends a file of known length.

    An rtsp stream begins with the frame that is being sent, not with those that came while it was
    opened; an http stream does so with `skip_backlog`.

    Raises `SourceError` where nothing answers within `open_timeout_s`, or no video comes, and
    `CaptureError` where it breaks off at once.
    """
    subject = check_address(url)
    parameters = open_parameters(
        OPEN_TIMEOUT_MSEC=open_timeout_s * 1000,
        READ_TIMEOUT_MSEC=read_timeout_s * 1000,
        N_THREADS=1,
    )
    started = time.monotonic()
    kind = url.lower()[:4]
    options = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": _RTSP_OPTIONS} if kind == "rtsp" else {}
    with quiet_opening(**options):
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
    if not capture.isOpened():
        raise SourceError(f"{subject}: {_why_not(url, time.monotonic() - started)}")
    source = Video(capture, camera or _name_of(url), subject, read_timeout_s)
    source.live = source.frames is None
    if source.live and (skip_backlog or kind == "rtsp"):
        try:
            skipped = source.skip_backlog(_BACKLOG_LIMIT_S[kind])
        except CaptureError:
            source.close()
            raise
        log.debug("%s: passed over %d frames that had piled up", subject, skipped)
    return source


def _why_not(url: str, waited_s: float) -> str:
    """FFmpeg does not say why a stream does not open, so see who answers at all."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORT[parts.scheme.lower()]
    try:
        with socket.create_connection((parts.hostname or "", port), _PROBE_TIMEOUT_S):
            return (
                f"the server answers, but no video came within {waited_s:.1f} s; check the path, "
                f"the user name and the password"
            )
    except OSError as error:
        reason = error.strerror or str(error)
        return f"nothing answers at {parts.hostname}:{port} ({reason}); check the address"


def _name_of(url: str) -> str:
    parts = urlsplit(url)
    return safe_name(f"{parts.hostname or ''}_{Path(parts.path).stem}")
