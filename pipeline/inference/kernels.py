"""The compiled kernels under `decode`: see there for the formulas.

They run without the interpreter lock, their machine code is kept on disk, and they allocate only
for the candidates they find. Numba infers the types, so the arguments carry no annotations.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np

logger = logging.getLogger(__name__)

DARKNET_DISTANCE_EXPONENT = 0.6
_LOGIT_MARGIN = 1e-3  # the cheap test in logit space may only err towards looking closer
_FIRST_CAPACITY = 256


@functools.cache
def _warn_of_no_cache(reason: str) -> None:
    logger.warning("no folder to keep compiled kernels in (%s); every start compiles", reason)


def kernel(function: Any) -> Any:
    """Compile on first use, keep the machine code on disk, run without the interpreter lock."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba's answer where no folder can be written to
        _warn_of_no_cache("set NUMBA_CACHE_DIR to one")
        return numba.njit(**options)(function)


def are_compiled() -> bool:
    """Whether an earlier run of this Python and this file has left the machine code."""
    folder = decode_and_suppress.stats.cache_path
    if folder is None:
        return False
    newest = Path(__file__).stat().st_mtime
    name = f"kernels.decode_and_suppress-*.py{sys.version_info[0]}{sys.version_info[1]}*.nbi"
    return any(index.stat().st_mtime >= newest for index in Path(folder).glob(name))


@kernel
def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-np.float64(x)))


@kernel
def _logit(p: float) -> float:
    if p <= 0.0:
        return -np.inf
    if p >= 1.0:
        return np.inf
    return math.log(p / (1.0 - p))


@kernel
def decode_and_suppress(
    heads,
    anchors,
    scales_x_y,
    network_size,
    mapping,
    score_threshold,
    nms_threshold,
    darknet,
    multi_label,
    max_detections,
):
    """Heads to boxes (n, 4) float32, scores (n,) float32 and class ids (n,) int32."""
    boxes = np.empty((_FIRST_CAPACITY, 4), np.float64)
    scores = np.empty(_FIRST_CAPACITY, np.float64)
    class_ids = np.empty(_FIRST_CAPACITY, np.int32)
    count = np.int64(0)  # not the literal, which would be compiled for on its own
    for i in range(len(heads)):
        boxes, scores, class_ids, count = _collect(
            heads[i],
            anchors[i],
            scales_x_y[i],
            network_size,
            mapping,
            score_threshold,
            multi_label,
            boxes,
            scores,
            class_ids,
            count,
        )
    kept = _suppress(boxes, scores[:count], class_ids, nms_threshold, darknet, max_detections)
    return _gather(kept, boxes, scores, class_ids, mapping)


@kernel
def _collect(
    head,
    anchors,
    scale_x_y,
    network_size,
    mapping,
    score_threshold,
    multi_label,
    boxes,
    scores,
    class_ids,
    count,
):
    """Append every candidate of one head; only anchors that can reach the score are touched."""
    classes = head.shape[0] // len(anchors) - 5
    rows, columns = head.shape[1], head.shape[2]
    least_objectness = _logit(score_threshold) - _LOGIT_MARGIN
    for anchor in range(len(anchors)):
        first = anchor * (5 + classes)
        for row in range(rows):
            for column in range(columns):
                if not head[first + 4, row, column] > least_objectness:  # false for NaN too
                    continue
                box = _box(
                    head, first, row, column, anchors[anchor], scale_x_y, network_size, mapping
                )
                if not _is_visible(box, mapping):
                    continue
                objectness = _sigmoid(head[first + 4, row, column])
                least_class = _logit(score_threshold / objectness) - _LOGIT_MARGIN
                begin, end = 0, classes
                if not multi_label:
                    begin = _best_class(head, first + 5, row, column, classes)
                    end = begin + 1
                for class_id in range(begin, end):
                    logit = head[first + 5 + class_id, row, column]
                    if logit > least_class:
                        boxes, scores, class_ids, count = _append(
                            boxes, scores, class_ids, count,
                            box, objectness * _sigmoid(logit), class_id, score_threshold,
                        )  # fmt: skip
    return boxes, scores, class_ids, count


@kernel
def _box(head, first, row, column, anchor, scale_x_y, network_size, mapping):
    """One anchor's x1 y1 x2 y2 in source pixels, not clipped."""
    columns, rows = head.shape[2], head.shape[1]
    shift = (scale_x_y - 1.0) / 2.0
    x = (column + scale_x_y * _sigmoid(head[first, row, column]) - shift) / columns
    y = (row + scale_x_y * _sigmoid(head[first + 1, row, column]) - shift) / rows
    half_width = math.exp(np.float64(head[first + 2, row, column])) * anchor[0] / 2.0
    half_height = math.exp(np.float64(head[first + 3, row, column])) * anchor[1] / 2.0
    x *= network_size[0]
    y *= network_size[1]
    return (
        (x - half_width) * mapping.scale_x + mapping.offset_x,
        (y - half_height) * mapping.scale_y + mapping.offset_y,
        (x + half_width) * mapping.scale_x + mapping.offset_x,
        (y + half_height) * mapping.scale_y + mapping.offset_y,
    )


@kernel
def _is_visible(box, mapping):
    """Whether a box is finite and covers some of the frame."""
    for edge in box:
        if not math.isfinite(edge):
            return False
    left, right = max(box[0], 0.0), min(box[2], float(mapping.frame_width))
    top, bottom = max(box[1], 0.0), min(box[3], float(mapping.frame_height))
    return right > left and bottom > top


@kernel
def _best_class(head, first, row, column, classes):
    """The class of the greatest logit, the first of several; 0 where all are NaN."""
    best = 0
    greatest = -np.inf
    for class_id in range(classes):
        logit = head[first + class_id, row, column]
        if logit > greatest:
            best, greatest = class_id, logit
    return best


@kernel
def _append(boxes, scores, class_ids, count, box, score, class_id, score_threshold):
    if not score > score_threshold:
        return boxes, scores, class_ids, count
    if count == len(scores):
        boxes = np.concatenate((boxes, np.empty_like(boxes)))
        scores = np.concatenate((scores, np.empty_like(scores)))
        class_ids = np.concatenate((class_ids, np.empty_like(class_ids)))
    boxes[count, 0], boxes[count, 1], boxes[count, 2], boxes[count, 3] = box
    scores[count] = score
    class_ids[count] = class_id
    return boxes, scores, class_ids, count + 1


@kernel
def _suppress(boxes, scores, class_ids, threshold, darknet, max_detections):
    """Indices of the boxes to keep, best score first; equal scores keep the order of the heads."""
    order = np.argsort(-scores, kind="mergesort")
    kept = np.empty(min(len(scores), max_detections), np.int64)
    # The kept boxes of each class form a chain, so that a box meets only those of its own class.
    classes = 0
    for i in range(len(scores)):
        classes = max(classes, class_ids[i] + 1)
    newest_of_class = np.full(classes, -1, np.int64)
    previous = np.empty(len(kept), np.int64)
    count = 0
    for candidate in order:
        if count == len(kept):
            break
        class_id = class_ids[candidate]
        other = newest_of_class[class_id]
        while other >= 0:
            if _overlap(boxes[kept[other]], boxes[candidate], darknet) > threshold:
                break
            other = previous[other]
        if other < 0:
            kept[count] = candidate
            previous[count] = newest_of_class[class_id]
            newest_of_class[class_id] = count
            count += 1
    return kept[:count]


@kernel
def _overlap(a, b, darknet):
    """IoU of two boxes, less Darknet's distance term where asked for."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    iou = 0.0
    if width > 0.0 and height > 0.0:
        shared = width * height
        iou = shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
    if not darknet or iou == 0.0:
        return iou
    across = max(a[2], b[2]) - min(a[0], b[0])
    down = max(a[3], b[3]) - min(a[1], b[1])
    right = (a[0] + a[2] - b[0] - b[2]) / 2.0
    below = (a[1] + a[3] - b[1] - b[3]) / 2.0
    distance = (right * right + below * below) / (across * across + down * down)
    return iou - distance**DARKNET_DISTANCE_EXPONENT


@kernel
def _gather(kept, boxes, scores, class_ids, mapping):
    """Copy the kept objects out, clipped to the frame."""
    out_boxes = np.empty((len(kept), 4), np.float32)
    out_scores = np.empty(len(kept), np.float32)
    out_ids = np.empty(len(kept), np.int32)
    width, height = float(mapping.frame_width), float(mapping.frame_height)
    for i in range(len(kept)):
        box = boxes[kept[i]]
        out_boxes[i, 0] = min(max(box[0], 0.0), width)
        out_boxes[i, 1] = min(max(box[1], 0.0), height)
        out_boxes[i, 2] = min(max(box[2], 0.0), width)
        out_boxes[i, 3] = min(max(box[3], 0.0), height)
        out_scores[i] = scores[kept[i]]
        out_ids[i] = class_ids[kept[i]]
    return out_boxes, out_scores, out_ids
