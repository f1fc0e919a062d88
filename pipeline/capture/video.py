"""Video files, and streams over http and rtsp, decoded by FFmpeg inside OpenCV."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2

from pipeline.capture.opencv import OpenCVSource, open_parameters
from pipeline.capture.source import safe_name
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.quiet import quiet_opencv, quiet_opening
from pipeline.types import Frame

SCHEMES = ("http", "https", "rtsp", "rtsps")
READ_TIMEOUT_S = 5.0
MAX_LOST = 100
"""So many frames in a row that do not decode mean that nothing good will come any more."""

# TCP, because a lost UDP packet smears the picture until the next key frame; frames in the order
# that they come. Not FFmpeg's `nobuffer`: it throws away what it read to learn the format, and the
# first key frame with it, and a reader that never waits has drained that much in no time.
_RTSP_OPTIONS = "rtsp_transport;tcp|flags;low_delay"
_DEFAULT_PORT = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_TEXT_FORMATS = (b"v=0", b"#EXTM3U", b"ffconcat")
_SILENCE_S = 1.0  # a grab that fails sooner did not fail for want of data
_PROBE_TIMEOUT_S = 1.0


class Video(OpenCVSource):
    """A file (every frame counts) or a stream of unknown length (live)."""

    def __init__(self, capture: cv2.VideoCapture, camera: str, subject: str) -> None:
        super().__init__(capture, camera)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if count > 0 else None
        self.live = False
        self._subject = subject
        self._first_ms: float | None = None
        self._last_ms = 0.0
        self._lost = 0

    def _read(self) -> Frame | None:
        started = time.monotonic()
        with quiet_opencv():
            ok = self._capture.grab()
        stamp_ns = time.time_ns()
        if not ok:
            self._nothing_came(time.monotonic() - started)
            return None
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
        if self.live or waited_s > _SILENCE_S:
            why = f"sent nothing for {waited_s:.1f} s" if waited_s > _SILENCE_S else "ended"
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


def open_stream(url: str, *, open_timeout_s: float = 5.0, camera: str | None = None) -> Video:
    """Open an http or rtsp stream; live, unless the server sends a file of known length.

    Raises `SourceError` where nothing answers within `open_timeout_s`, or no video comes.
    """
    try:
        subject = redact(url)
        _ = urlsplit(url).port
    except ValueError as error:
        raise SourceError(f"source '{url}': not a valid address: {error}") from error
    parameters = open_parameters(
        OPEN_TIMEOUT_MSEC=open_timeout_s * 1000,
        READ_TIMEOUT_MSEC=READ_TIMEOUT_S * 1000,
        N_THREADS=1,
    )
    started = time.monotonic()
    rtsp = url.lower().startswith("rtsp")
    with quiet_opening(**({"OPENCV_FFMPEG_CAPTURE_OPTIONS": _RTSP_OPTIONS} if rtsp else {})):
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
    if not capture.isOpened():
        raise SourceError(f"{subject}: {_why_not(url, time.monotonic() - started)}")
    source = Video(capture, camera or _name_of(url), subject)
    source.live = source.frames is None
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


def redact(url: str) -> str:
    """The address without its user name and password, fit for messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _name_of(url: str) -> str:
    parts = urlsplit(url)
    return safe_name(f"{parts.hostname or ''}_{Path(parts.path).stem}")
