"""The times of a recording: when it began, how long it is, and the stamps of its frames."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.source import DEFAULT_FPS

_MP4_EPOCH_S = -2_082_844_800  # 1904-01-01, in seconds since the Unix epoch
_MOST_BOXES = 1000  # ahead of the movie header; there are seldom more than five
_LONGEST_MS = 1e12  # 30 years; a later position is as good as none
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
        position_ns = round(position_ms * 1e6) if abs(position_ms) < _LONGEST_MS else 0
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


class MovieHeader(NamedTuple):
    """What an MP4 or MOV file says of itself; None for what it does not say.

    - `start_ns`: when the recording began, in ns since the Unix epoch; many encoders leave it at 0
    - `duration_s`: of the longest track as it is played
    """

    start_ns: int | None = None
    duration_s: float | None = None


def movie_header(path: Path) -> MovieHeader:
    """Read the movie header (ISO/IEC 14496-12, box `mvhd` in `moov`), which OpenCV ignores."""
    with path.open("rb") as file:
        for _ in range(_MOST_BOXES):
            head = file.read(8)
            if len(head) < 8:
                break
            size, kind = struct.unpack(">I4s", head)
            if kind == b"moov":
                continue  # its first box is mvhd
            if kind == b"mvhd":
                return _parse_header(file.read(32))
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if not 8 <= size < 2**62:
                break
            file.seek(size - 8, os.SEEK_CUR)
    return MovieHeader()


def _parse_header(data: bytes) -> MovieHeader:
    form = ">4xQQIQ" if data[:1] == b"\1" else ">4xIIII"
    if len(data) < struct.calcsize(form):
        return MovieHeader()
    created_s, _, scale, duration = struct.unpack_from(form, data)
    start_s = created_s + _MP4_EPOCH_S
    is_plausible = _EARLIEST_S < start_s <= time.time()
    return MovieHeader(
        start_s * 10**9 if is_plausible else None, duration / scale if scale and duration else None
    )
