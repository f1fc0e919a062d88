"""Candidates and non-maximum suppression, shared by all detector families.

Suppression is greedy within a class, best score first. `iou` suppresses if IoU > threshold.
`darknet` is the `greedynms` of YOLOv4 cfg files: IoU - (d^2 / c^2)^0.6 > threshold, d the distance
of the centres, c the diagonal of the enclosing box (DIoU-NMS, arXiv 1911.08287, with Darknet's
exponent). Both compare boxes in source pixels before they are clipped to the frame.

Numba infers the types of compiled functions, so their arguments carry no annotations.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.kernels.kernel import kernel

DARKNET_DISTANCE_EXPONENT = 0.6
_FIRST_CAPACITY = 256


class Limits(NamedTuple):
    """Which candidates become objects.

    - `by_distance`: suppress as `darknet` does, else as `iou`
    - `multi_label`: an anchor or cell may give several classes instead of its best one
    """

    score_threshold: float
    nms_threshold: float
    by_distance: bool = False
    multi_label: bool = False
    max_detections: int = 300


class Decoded(NamedTuple):
    """Kept objects, best score first: boxes (n, 4) float32, scores (n,) float32, ids (n,) int32."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]


@kernel
def no_candidates():
    """Empty boxes, scores and class ids with room for the first candidates, and their count."""
    boxes = np.empty((_FIRST_CAPACITY, 4), np.float64)
    scores = np.empty(_FIRST_CAPACITY, np.float64)
    class_ids = np.empty(_FIRST_CAPACITY, np.int32)
    return boxes, scores, class_ids, np.int64(0)  # a literal would be a type of its own


@kernel
def is_visible(box, mapping):
    """Whether a box is finite and covers some of the frame."""
    for edge in box:
        if not math.isfinite(edge):
            return False
    left, right = max(box[0], 0.0), min(box[2], float(mapping.frame_width))
    top, bottom = max(box[1], 0.0), min(box[3], float(mapping.frame_height))
    return right > left and bottom > top


@kernel
def append(boxes, scores, class_ids, count, box, score, class_id, score_threshold):
    """Add a candidate if its score is above the threshold; returns the arrays and their count."""
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
def suppress(boxes, scores, class_ids, mapping, threshold, by_distance, max_detections):
    """The objects that survive suppression, clipped to the frame, best score first."""
    kept = _kept(boxes, scores, class_ids, threshold, by_distance, max_detections)
    return _gather(kept, boxes, scores, class_ids, mapping)


@kernel
def _kept(boxes, scores, class_ids, threshold, by_distance, max_detections):
    """Indices of the boxes to keep; equal scores keep the order of the candidates."""
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
            if _overlap(boxes[kept[other]], boxes[candidate], by_distance) > threshold:
                break
            other = previous[other]
        if other < 0:
            kept[count] = candidate
            previous[count] = newest_of_class[class_id]
            newest_of_class[class_id] = count
            count += 1
    return kept[:count]


@kernel
def _overlap(a, b, by_distance):
    """IoU of two boxes, less Darknet's distance term if requested."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    iou = 0.0
    if width > 0.0 and height > 0.0:
        shared = width * height
        iou = shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
    if not by_distance or iou == 0.0:
        return iou
    across = max(a[2], b[2]) - min(a[0], b[0])
    down = max(a[3], b[3]) - min(a[1], b[1])
    right = (a[0] + a[2] - b[0] - b[2]) / 2.0
    below = (a[1] + a[3] - b[1] - b[3]) / 2.0
    distance = (right * right + below * below) / (across * across + down * down)
    return iou - distance**DARKNET_DISTANCE_EXPONENT


@kernel
def _gather(kept, boxes, scores, class_ids, mapping):
    """Copy the kept objects, clipped to the frame."""
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
