"""Videos decoded by FFmpeg inside OpenCV: files, and the base of streams."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

import cv2

from pipeline.capture.conversion import ConversionCheck
from pipeline.capture.opencv import OpenCVSource, open_parameters, size_of
from pipeline.capture.recording import RecordingClock, movie_header
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.ffmpeg import PLAYLISTS, open_file
from pipeline.images import size_problem
from pipeline.opencv_logging import quiet_opencv
from pipeline.source import safe_name
from pipeline.types import Frame, Image, Media

MAX_LOST = 100
"""After this many undecodable frames in a row, the file has ended."""

logger = logging.getLogger(__name__)

_PLAYLIST_HEADS = (b"v=0", b"#EXTM3U", b"ffconcat")
_HEADS_LIKE_TEXT = (b"YUV4MPEG2",)  # videos that begin with a line of text
_SILENCE_S = 1.0  # a grab that fails sooner did not fail for lack of data
_UNKNOWN_COUNT = 2**30  # of AVI files that were written to a pipe
_DELAY = 32  # frames that a decoder still gives after its data have ended


class Video(OpenCVSource):
    """A video whose frames all count, or a live stream.

    A stream of unknown length is live. `fps` replaces the rate and the positions that the file
    states; `start_ns` is the stamp of the first frame. `movie_s` is the duration of the file's
    longest track, if it is known. Raises `SourceError` if the frames are too large.
    """

    def __init__(
        self,
        capture: cv2.VideoCapture,
        camera: str,
        subject: str,
        *,
        is_stream: bool = False,
        read_timeout_s: float = math.inf,
        fps: float | None = None,
        start_ns: int | None = None,
        movie_s: float | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(capture, camera)
        self._file = file
        if problem := size_problem(*size_of(capture)):
            self.close()
            raise SourceError(f"{subject}: {problem}")
        self._silence_s = min(_SILENCE_S, 0.8 * read_timeout_s)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if 0 < count < _UNKNOWN_COUNT else None
        self.live = is_stream and self.frames is None
        self._duration_s = self.frames / self.fps if self.frames and self.fps else 0.0
        self._movie_s = movie_s
        self._start_ns = start_ns or time.time_ns()
        self._clock = RecordingClock(self._start_ns, self.fps)
        self._fixed_fps = fps
        self.fps = fps or self.fps
        self._subject = subject
        self._conversion = ConversionCheck(capture)
        self._silence = -_DELAY, 0.0  # the last wait for data: before which frame, how long
        self._first_ms: float | None = None
        self._last_ms = 0.0
        self._lost = 0  # frames in front of the grabbed one that do not decode
        self._is_ahead = False  # a frame is grabbed already

    def _grab(self) -> bool:
        """Whether there is a next frame. Raises `FrameError` for each frame that does not decode.

        Counts and durations in headers are hints. Where one says that more should come, a few more
        attempts find out whether something does.
        """
        if self._lost:
            self._lost -= 1
            raise self._loss()
        if self._is_ahead:
            self._is_ahead = False
            return True
        if self._grab_now():
            return True
        missing_s = self._missing_s(self._duration_s)
        if missing_s <= 0:
            return False
        lost = next((lost for lost in range(MAX_LOST) if self._grab_now()), None)
        if lost is None:
            self._end_early(missing_s)
            return False
        self._lost, self._is_ahead = lost, True
        raise self._loss()

    def _grab_now(self) -> bool:
        """Grab the next frame. Raises `CaptureError` at the end or the silence of a stream."""
        started = time.monotonic()
        with quiet_opencv():
            ok = self._capture.grab()
        waited_s = time.monotonic() - started
        if waited_s > self._silence_s:
            self._silence = self._seq, waited_s
        if ok:
            return True
        if self._seq - self._silence[0] < _DELAY:
            waited_s = self._silence[1]
        if self.live or waited_s > self._silence_s:
            why = f"sent nothing for {waited_s:.1f} s" if waited_s > self._silence_s else "ended"
            raise CaptureError(f"{self._subject}: the stream {why}; after {self._seq} frames")
        return False

    def _read(self) -> Frame | None:
        if not self._grab():
            return None
        read_ns = time.time_ns()
        seq, self._seq = self._seq, self._seq + 1
        position_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._first_ms is None:
            self._first_ms = position_ms
        # Some versions of OpenCV state 0 for the last frames.
        self._last_ms = max(self._last_ms, position_ms)
        if self.live:
            return Frame(self._retrieve(seq), read_ns, seq, self.camera)
        if self._fixed_fps:
            stamp_ns = self._start_ns + round(seq * 1e9 / self._fixed_fps)
        else:
            stamp_ns = self._clock.stamp_ns(seq, position_ms)
        media = None
        if self._file is not None:
            media = Media(self._file, (stamp_ns - self._start_ns) / 1e9)
        image = self._retrieve(seq)
        return Frame(image, stamp_ns, seq, self.camera, read_ns=read_ns, recorded=True, media=media)

    def _retrieve(self, seq: int) -> Image:
        image = super()._retrieve(seq)
        if not self._conversion.is_converted(image):
            remedy = "set the camera to progressive video"
            if not self.live:
                remedy = f"deinterlace it: ffmpeg -i {self._subject} -vf yadif OUT.mp4"
            raise CaptureError(
                f"{self._subject}: OpenCV {cv2.__version__} cannot convert frame {seq}, usually "
                f"because it is interlaced; {remedy}"
            )
        return image

    def _loss(self) -> FrameError:
        seq, self._seq = self._seq, self._seq + 1
        return FrameError(f"{self._subject}: frame {seq} does not decode")

    def _end_early(self, missing_s: float) -> None:
        """Raise `CaptureError` if the rest of the video is surely missing, else warn."""
        if self._first_ms is None:
            raise CaptureError(
                f"{self._subject}: no frame decodes; either it is damaged, or this OpenCV has no "
                f"decoder for {self._codec()}: convert it with "
                f"ffmpeg -i {self._subject} -c:v libx264 OUT.mp4"
            )
        if self._movie_s and self._missing_s(self._movie_s):
            raise CaptureError(
                f"{self._subject}: nothing decodes from frame {self._seq} on, {missing_s:.1f} s "
                f"before the end; the file is cut off or damaged"
            )
        logger.warning(
            "%s: ends %.1f s before its header says; another stream of the file is longer, or it "
            "is cut off",
            self._subject,
            missing_s,
        )

    def _codec(self) -> str:
        """The codec as its four letters, such as av01."""
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        return code.to_bytes(4, "little", signed=code < 0).decode("latin-1").strip("\0 ") or "it"

    def _missing_s(self, duration_s: float) -> float:
        """Seconds of `duration_s` that are still to come, 0 within the inaccuracy of files.

        By time, not by count: for files with a variable rate the count is a guess.
        """
        if self._first_ms is None:
            return duration_s
        missing_s = duration_s - (self._last_ms - self._first_ms) / 1000
        return missing_s if missing_s > max(1.0, 0.05 * duration_s) else 0.0


def open_video(path: Path, *, camera: str | None = None, fps: float | None = None) -> Video:
    """Open a video file, every frame of which counts.

    Raises `SourceError` if the file cannot be read or is not a video.
    """
    _check_readable(path)
    # One thread decodes with less CPU time than several and, at the sizes that detectors use, no
    # slower.
    capture = open_file(path, open_parameters(N_THREADS=1))
    if not capture.isOpened():
        raise SourceError(
            f"{path}: not a video that can be read; its format is unknown, or the file is cut off"
        )
    header = movie_header(path)
    return Video(
        capture,
        camera or safe_name(path.stem),
        str(path),
        fps=fps,
        start_ns=header.start_ns,
        movie_s=header.duration_s,
        file=str(path),
    )


def _check_readable(path: Path) -> None:
    try:
        if not os.path.isfile(path):
            raise SourceError(f"{path}: not a regular file; expected a video")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise SourceError(f"{path}: the file is empty; expected a video")
    if path.suffix.lower() in PLAYLISTS or head.startswith(_HEADS_LIKE_TEXT):
        return
    if head.startswith(_PLAYLIST_HEADS):
        suffixes = ", ".join(PLAYLISTS)
        raise SourceError(
            f"{path}: the file is a playlist, which names other files; expected a video. "
            f"A playlist is opened if its name ends in one of {suffixes}"
        )
    if _is_text(head):
        raise SourceError(f"{path}: the file is text; expected a video")


def _is_text(head: bytes) -> bool:
    return not set(head) & (set(range(32)) - set(b"\t\n\v\f\r\x1b"))
