"""Videos decoded by FFmpeg inside OpenCV: files, and the base of streams."""

from __future__ import annotations

import math
import os
import struct
import time
from pathlib import Path

import cv2

from pipeline.capture.conversion import ConversionCheck
from pipeline.capture.opencv import OpenCVSource, open_parameters, size_of
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.ffmpeg import PLAYLISTS, open_file
from pipeline.images import size_problem
from pipeline.opencv_logging import quiet_opencv
from pipeline.source import DEFAULT_FPS, safe_name
from pipeline.types import Frame, Image, Media

MAX_LOST = 100
"""After this many undecodable frames in a row, the rest of the file counts as damaged."""

_PLAYLIST_HEADS = (b"v=0", b"#EXTM3U", b"ffconcat")
_HEADS_LIKE_TEXT = (b"YUV4MPEG2",)  # videos that begin with a line of text
_SILENCE_S = 1.0  # a grab that fails sooner did not fail for lack of data
_DELAY = 32  # frames that a decoder still gives after its data have ended
_MP4_EPOCH_S = -2_082_844_800  # 1904-01-01, in seconds since the Unix epoch
_EARLIEST_S = 946_684_800  # 2000-01-01; an earlier start means a clock that was never set


class RecordingClock:
    """Stamps the frames of a recording: its start, plus the time of each frame in it.

    The first frame has the stamp `start_ns`, whatever position the container states for it. Stamps
    increase strictly: a position that is missing, or not after the one before, counts as one
    period per frame, and the positions that follow keep their distances from it.

    - `fps`: the rate that is assumed if positions are missing
    """

    def __init__(self, start_ns: int, fps: float | None = None) -> None:
        self._start_ns = start_ns
        self._period_ns = round(1e9 / (fps or DEFAULT_FPS))
        self._last: tuple[int, int] | None = None
        self._offset_ns = 0

    def stamp_ns(self, seq: int, position_ms: float) -> int:
        """The stamp of frame `seq`, at `position_ms` on the container's time line."""
        position_ns = round(position_ms * 1e6) if math.isfinite(position_ms) else 0
        if self._last is None:
            stamp_ns = self._start_ns
            self._offset_ns = stamp_ns - position_ns
        else:
            last_seq, last_ns = self._last
            stamp_ns = position_ns + self._offset_ns
            if stamp_ns <= last_ns:
                stamp_ns = last_ns + (seq - last_seq) * self._period_ns
                if position_ns:  # OpenCV states 0 if it does not know the position
                    self._offset_ns = stamp_ns - position_ns
        self._last = seq, stamp_ns
        return stamp_ns


class Video(OpenCVSource):
    """A video whose frames all count, or a live stream.

    A stream of unknown length is live. `fps` replaces the rate and the positions that the file
    states; `start_ns` is the stamp of the first frame. Raises `SourceError` if the frames are too
    large.
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
        file: str | None = None,
    ) -> None:
        super().__init__(capture, camera)
        self._file = file
        if problem := size_problem(*size_of(capture)):
            self.close()
            raise SourceError(f"{subject}: {problem}")
        self._silence_s = min(_SILENCE_S, 0.8 * read_timeout_s)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if count > 0 else None
        self.live = is_stream and self.frames is None
        self._duration_s = self.frames / self.fps if self.frames and self.fps else 0.0
        self._start_ns = start_ns or time.time_ns()
        self._clock = RecordingClock(self._start_ns, self.fps)
        self._fixed_fps = fps
        self.fps = fps or self.fps
        self._subject = subject
        self._conversion = ConversionCheck(capture)
        self._silence = -_DELAY, 0.0  # the last wait for data: before which frame, how long
        self._first_ms: float | None = None
        self._last_ms = 0.0
        self._lost = 0

    def _grab(self) -> bool:
        """Whether there is a next frame; a loss is raised as `_fail` does."""
        started = time.monotonic()
        with quiet_opencv():
            ok = self._capture.grab()
        waited_s = time.monotonic() - started
        if waited_s > self._silence_s:
            self._silence = self._seq, waited_s
        if not ok:
            self._fail(self._silence[1] if self._seq - self._silence[0] < _DELAY else waited_s)
        return bool(ok)

    def _read(self) -> Frame | None:
        if not self._grab():
            return None
        read_ns = time.time_ns()
        seq, self._seq = self._seq, self._seq + 1
        self._lost = 0
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

    def _fail(self, waited_s: float) -> None:
        """Raise, after a failed grab, unless it was the end of a file."""
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
        """Seconds of the video that are still to come, 0 within the inaccuracy of files.

        By time, not by count: for files with a variable rate the count is a guess.
        """
        if self._first_ms is None:
            return self._duration_s
        missing_s = self._duration_s - (self._last_ms - self._first_ms) / 1000
        return missing_s if missing_s > max(1.0, 0.05 * self._duration_s) else 0.0


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
    return Video(
        capture,
        camera or safe_name(path.stem),
        str(path),
        fps=fps,
        start_ns=recording_start_ns(path),
        file=str(path),
    )


def recording_start_ns(path: Path) -> int | None:
    """When an MP4 or MOV recording began, in ns since the Unix epoch; None if it is not stated.

    Reads the creation time of the movie header (ISO/IEC 14496-12, box `mvhd` in `moov`), which
    OpenCV does not pass on. Many encoders leave it at 0.
    """
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"moov":
                continue  # its first box is mvhd
            if kind == b"mvhd":
                is_long = file.read(4)[:1] == b"\1"
                number = file.read(8 if is_long else 4)
                start_s = int.from_bytes(number, "big") + _MP4_EPOCH_S
                return start_s * 10**9 if _EARLIEST_S < start_s <= time.time() else None
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:
                return None
            file.seek(size - 8, os.SEEK_CUR)
    return None


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
