"""Results as messages: their arrays, and the names of the classes that occur in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pipeline.transport.wire.messages import ResultMessage
from pipeline.transport.wire.schema import (
    MAX_OBJECTS,
    MAX_TOP,
    WireError,
    result_nbytes,
)
from pipeline.types import Classifications, Detections, Header, Labels, Result

MAX_LABEL = 256
_ROUNDING = 1e-5  # how far above 1 the last bit of a softmax may carry


class SparseLabels(Sequence[str]):
    """The names of `count` classes, of which only some are known; others read `class 17`."""

    def __init__(self, count: int, known: Mapping[int, str]) -> None:
        self._count = count
        self._known = known

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"class {index} is out of range; there are {self._count} classes")
        index %= self._count
        return self._known.get(index, f"class {index}")


def result_fields(result: Result) -> dict[str, Any]:
    """The fields of a result's `ResultHeader` without those of its envelope.

    Raises `WireError` if a receiver would refuse the result.
    """
    detections, named = result.detections, result.classifications
    n, top = len(detections), None if named is None else named.ids.shape[1]
    if n > MAX_OBJECTS or (top or 0) > MAX_TOP:
        raise WireError(
            "size", f"{n} objects with {top} classes each; at most {MAX_OBJECTS} and {MAX_TOP}"
        )
    _check_detections(detections, result.header.width, result.header.height)
    fields = {
        "objects": n,
        "classes": len(detections.labels),
        "labels": _names(detections.class_ids, detections.labels),
        "top": top,
        "stage_ns": {name: int(duration) for name, duration in result.stage_ns.items()},
    }
    if named is not None:
        _check_classifications(named, n)
        fields["finer_classes"] = len(named.labels)
        fields["finer_labels"] = _names(named.ids, named.labels)
    return fields


def result_payload(result: Result) -> bytes:
    """The arrays of a result one after the other, little-endian."""
    d, c = result.detections, result.classifications
    arrays: list[tuple[npt.NDArray[Any], str]]
    arrays = [(d.boxes, "<f4"), (d.scores, "<f4"), (d.class_ids, "<i4"), (d.track_ids, "<i8")]
    if c is not None:
        arrays += [(c.ids, "<i4"), (c.scores, "<f4")]
    return b"".join(array.astype(dtype, copy=False).tobytes() for array, dtype in arrays)


def result_of(message: ResultMessage) -> Result:
    """The result that a message holds.

    Raises `WireError` if a value in the arrays is out of its range.
    """
    header = message.header
    n, top = header.objects, header.top
    if message.payload.nbytes != result_nbytes(n, top):
        raise WireError("size", "the payload is shorter or longer than its header says")
    read = _Reader(message.payload)
    boxes = read.take((n, 4), np.float32)
    scores = read.take((n,), np.float32)
    class_ids = read.take((n,), np.int32)
    track_ids = read.take((n,), np.int64)
    detections = Detections(
        boxes, scores, class_ids, SparseLabels(header.classes, header.labels), track_ids
    )
    _check_detections(detections, header.width, header.height)
    named = None
    if top is not None:
        ids, finer_scores = read.take((n, top), np.int32), read.take((n, top), np.float32)
        names = SparseLabels(header.finer_classes, header.finer_labels)
        named = Classifications(ids, finer_scores, names)
        _check_classifications(named, n)
    frame = Header(
        header.camera,
        header.seq,
        header.stamp_ns,
        header.width,
        header.height,
        header.read_ns,
        header.recorded,
    )
    return Result(frame, detections, named, dict(header.stage_ns))


class _Reader:
    """Reads arrays from a payload, one after the other, each a copy of its own."""

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self._at = 0

    def take(self, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        little = np.dtype(dtype).newbyteorder("<")
        count = int(np.prod(shape))
        flat = np.frombuffer(self._payload, little, count, self._at) if count else np.empty(0)
        self._at += count * little.itemsize
        return flat.astype(dtype).reshape(shape)


def _names(ids: npt.NDArray[np.int32], labels: Labels) -> dict[int, str]:
    return {i: labels[i][:MAX_LABEL] for i in np.unique(ids).tolist()}


def _check_detections(detections: Detections, width: int, height: int) -> None:
    boxes = detections.boxes
    x1, y1, x2, y2 = boxes.T
    inside = (x1 >= 0) & (x1 <= x2) & (x2 <= width) & (y1 >= 0) & (y1 <= y2) & (y2 <= height)
    if not inside.all():
        raise WireError("payload", f"a box lies outside its image of {width} x {height} pixels")
    _check_ids("class", detections.class_ids, len(detections.labels))
    _check_scores(detections.scores)
    if (detections.track_ids < -1).any():
        raise WireError("payload", "a track id is below -1")


def _check_classifications(named: Classifications, objects: int) -> None:
    if len(named) != objects:
        raise WireError("payload", f"{len(named)} rows of classifications for {objects} objects")
    _check_ids("classification's class", named.ids, len(named.labels))
    _check_scores(named.scores)


def _check_ids(what: str, ids: npt.NDArray[np.int32], count: int) -> None:
    if ((ids < 0) | (ids >= count)).any():
        raise WireError("payload", f"a {what} id is not among the {count} classes")


def _check_scores(scores: npt.NDArray[np.float32]) -> None:
    if not ((scores >= 0) & (scores <= 1 + _ROUNDING)).all():
        raise WireError("payload", "a score is not between 0 and 1")
