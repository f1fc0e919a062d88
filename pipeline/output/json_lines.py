"""Results as lines of JSON."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import InputError, OutputError
from pipeline.output.files import check_target
from pipeline.output.output import Stop
from pipeline.types import Classifications, Result

STDOUT = "-"


class JsonLines:
    """Writes one line a result to a file, or to standard output where the path is `-`.

    `now_ns` tells what the clock of a camera shows, by default this machine's; ages are told by it.
    Raises `InputError` where the file cannot be opened.
    """

    def __init__(
        self, path: str | Path, now_ns: Callable[[str], int] = lambda camera: time.time_ns()
    ) -> None:
        self._now_ns = now_ns
        self._subject = "standard output" if str(path) == STDOUT else f"--jsonl {path}"
        try:
            # Unbuffered, because every line goes out at once, and because what a full or broken
            # pipe leaves behind in a buffer would hold up the end of the process.
            if str(path) == STDOUT:
                self._file = os.fdopen(os.dup(1), "wb", buffering=0)
            else:
                self._file = check_target(Path(path), "--jsonl").open("wb", buffering=0)
        except OSError as error:
            raise InputError(f"{self._subject}: cannot be opened: {error.strerror}") from error

    def write(self, result: Result) -> None:
        fields = result_to_dict(result, self._now_ns(result.header.camera))
        left = memoryview(msgspec.json.encode(fields) + b"\n")
        try:
            while left:  # a pipe may take less than it is given
                left = left[self._file.write(left) or 0 :]
        except BrokenPipeError:
            raise Stop(f"{self._subject}: the reader has gone") from None
        except OSError as error:
            raise OutputError(f"{self._subject}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        # What could not be written has been reported by write.
        with contextlib.suppress(OSError):
            self._file.close()


def result_to_dict(result: Result, now_ns: int | None = None) -> dict[str, Any]:
    """A result in the form of a line of `--jsonl`.

    `box` is x1 y1 x2 y2 in pixels, rounded to hundredths; scores are rounded to four places;
    `age_ms` is from the capture to `now_ns` (ns since the epoch, now where it is None); `track_id`
    is -1 without a track; `classes` is empty without a classifier.
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
            "classes": finer,
        }
        for box, class_id, score, track_id, finer in zip(
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
        "width": header.width,
        "height": header.height,
        "age_ms": round(max(now_ns - header.stamp_ns, 0) / 1e6, 3),
        "objects": objects,
    }


def _classes(finer: Classifications | None) -> list[list[dict[str, Any]]]:
    if finer is None:
        return []
    return [
        [
            {"label": finer.labels[number], "class_id": number, "score": round(score, 4)}
            for number, score in zip(ids, scores, strict=True)
        ]
        for ids, scores in zip(finer.ids.tolist(), finer.scores.tolist(), strict=True)
    ]
