"""Results as lines of JSON."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import InputError, OutputError
from pipeline.output.files import check_target
from pipeline.output.output import Output, OutputKind, Stop
from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.types import Classifications, Frame, Result

STDOUT = "-"


class JsonLines(Output):
    """Writes one line per result to a file, or to standard output if the path is `-`.

    The file is opened by `start`, or by the first `write`. Raises `InputError` if it cannot be
    written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._is_stdout = str(path) == STDOUT
        self._subject = "standard output" if self._is_stdout else f"--jsonl {path}"
        if not self._is_stdout:
            check_target(Path(path), "--jsonl")
        self._on_terminal = self._is_stdout and os.isatty(1)
        self._source: Source[Any] | None = None
        self._file: FileIO | None = None

    def start(self, source: Source[Any]) -> None:
        self._source = source
        self._file = self._file or self._open()

    def write(self, result: Result) -> None:
        self._file = self._file or self._open()
        fields = result_to_dict(result, self._now_ns(result.header.camera))
        # Letters beyond ASCII include control characters, which a terminal obeys.
        line = msgspec.json.encode(fields)
        if self._on_terminal:
            line = json.dumps(json.loads(line)).encode()
        left = memoryview(line + b"\n")
        try:
            while left:  # a pipe may accept less than it is given
                left = left[self._file.write(left) or 0 :]
        except BrokenPipeError:
            raise Stop(f"{self._subject}: the reader has closed it") from None
        except OSError as error:
            raise OutputError(f"{self._subject}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a failed write was reported by write
                self._file.close()

    def _open(self) -> FileIO:
        """Open the file unbuffered.

        Each line is written at once, and a full or broken pipe leaves nothing in a buffer that
        would delay the end of the process.
        """
        try:
            if self._is_stdout:
                return FileIO(os.dup(1), "wb")
            file = FileIO(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb")
        except OSError as error:
            raise InputError(f"{self._subject}: cannot be opened: {error.strerror}") from error
        try:
            self._claim(file)
        except BaseException:
            file.close()
            raise
        return file

    def _claim(self, file: FileIO) -> None:
        """Empty a regular file, unless another process writes to it."""
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self._subject}: another run is writing to it; expected a file of its own for "
                f"each run"
            ) from None
        except OSError:  # not every file system has locks
            pass
        file.truncate()

    def _now_ns(self, camera: str) -> int:
        """The time of the clock that stamps the frames of a camera; this machine's if not known."""
        clock = self._source.clock_of(camera) if self._source else None
        ahead_ns = clock.offset_ns if clock is not None and clock.is_known else 0
        return time.time_ns() + ahead_ns


def _make(settings: Settings) -> JsonLines:
    return JsonLines(settings.jsonl or STDOUT)


KIND = OutputKind("jsonl", JsonLines, _make)


def result_to_dict(result: Result, now_ns: int | None = None) -> dict[str, Any]:
    """Convert a result to the form of a line of `--jsonl`.

    `box` is x1 y1 x2 y2 in pixels, rounded to hundredths; scores are rounded to four places;
    `age_ms` is the frame's age at `now_ns` (ns since the epoch, now if None); `track_id` is -1
    without a track; `classes` is empty without a classifier. `file` and, for a video, `media_s`
    (seconds from its first frame) say where a recorded frame is.
    """
    header, found = result.header, result.detections
    now_ns = time.time_ns() if now_ns is None else now_ns
    classes = _classes(result.classifications) or [[]] * len(found)
    objects = [
        {
            "box": [round(x, 2) for x in box],
            "label": found.labels[class_id],
            "class_id": class_id,
            "score": round(score, 4),
            "track_id": track_id,
            "classes": named,
        }
        for box, class_id, score, track_id, named in zip(
            found.boxes.tolist(),
            found.class_ids.tolist(),
            found.scores.tolist(),
            found.track_ids.tolist(),
            classes,
            strict=True,
        )
    ]
    return {
        "camera": header.camera,
        "seq": header.seq,
        "stamp_ns": header.stamp_ns,
        **_media(result.frame),
        "width": header.width,
        "height": header.height,
        "age_ms": round(max(now_ns - header.age_start_ns, 0) / 1e6, 3),
        "objects": objects,
    }


def _media(frame: Frame | None) -> dict[str, Any]:
    if frame is None or frame.media is None:
        return {}
    # Names of files need not be UTF-8, and JSON is.
    file = frame.media.file.encode("utf-8", "backslashreplace").decode()
    time_s = frame.media.time_s
    return {"file": file} if time_s is None else {"file": file, "media_s": round(time_s, 6)}


def _classes(found: Classifications | None) -> list[list[dict[str, Any]]]:
    if found is None:
        return []
    return [
        [
            {"label": found.labels[number], "class_id": number, "score": round(score, 4)}
            for number, score in zip(ids, scores, strict=True)
        ]
        for ids, scores in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
    ]
