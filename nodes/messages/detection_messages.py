"""Converts detections and classifications to vision_msgs, and boxes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header as HeaderMessage
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from pipeline.types import Classifications, Detections

CLASS_PREFIX = "imagenet/"
"""The prefix of a `class_id` that comes from the classifier, not from the detector."""

_FARTHEST = 1e9  # pixels; far outside any image, and safe to compute with


def detection_array(
    header: HeaderMessage,
    detections: Detections,
    classifications: Classifications | None = None,
) -> Detection2DArray:
    """All objects of one frame, best score first; an empty array for a frame without objects.

    The header is copied verbatim into the array and every detection. Boxes are in pixels of the
    frame, `class_id` is the label. The classifier's classes follow as `imagenet/LABEL`.
    """
    message = Detection2DArray(header=header)
    labels = detections.labels
    rows = zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.class_ids.tolist(),
        detections.track_ids.tolist(),
        strict=True,
    )
    for box, score, class_id, track in rows:
        detection = Detection2D(header=header, id=str(track) if track >= 0 else "")
        _set_box(detection, box)
        detection.results = [_hypothesis(labels[class_id], score)]
        message.detections.append(detection)
    if classifications is not None:
        add_classifications(message.detections, classifications)
    return message


def add_classifications(detections: Iterable[Detection2D], found: Classifications) -> None:
    """Append to each detection the classes of its row, best first."""
    for detection, ids, scores in zip(
        detections, found.ids.tolist(), found.scores.tolist(), strict=True
    ):
        detection.results.extend(
            _hypothesis(CLASS_PREFIX + found.labels[i], score)
            for i, score in zip(ids, scores, strict=True)
        )


def boxes_from(message: Detection2DArray, width: int, height: int) -> npt.NDArray[np.float32]:
    """The boxes of a message, (n, 4) float32 x1 y1 x2 y2, clipped to an image of that size.

    NaN becomes 0, so that a damaged message from another node does no harm.
    """
    found = [
        (d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y)
        for d in message.detections
    ]
    numbers = np.nan_to_num(np.array(found, np.float64).reshape(-1, 4))
    x, y, across, down = np.clip(numbers, -_FARTHEST, _FARTHEST).T
    corners = np.stack([x - across / 2, y - down / 2, x + across / 2, y + down / 2], axis=1)
    limits = np.array([width, height, width, height])
    boxes: npt.NDArray[np.float32] = np.clip(corners, 0, limits).astype(np.float32)
    return boxes


def label_info(header: HeaderMessage, labels: Sequence[str], threshold: float) -> LabelInfo:
    """The names of all classes by id, and the score threshold of the detector."""
    classes = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(labels)]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)


def _set_box(detection: Detection2D, box: Sequence[float]) -> None:
    x1, y1, x2, y2 = box
    centre: Any = detection.bbox.center.position
    centre.x, centre.y = (x1 + x2) / 2, (y1 + y2) / 2
    detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1


def _hypothesis(class_id: str, score: float) -> ObjectHypothesisWithPose:
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = class_id
    hypothesis.hypothesis.score = score
    return hypothesis
