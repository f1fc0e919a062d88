"""Raw YOLO heads to objects: decode and non-maximum suppression in one compiled pass.

Formulas (Darknet's yolo layer; scale_x_y s from arXiv 2004.10934, section 3.4), for the cell at
(column, row) of a head with the given stride and an anchor of (aw, ah) network pixels:

    cx = (column + s * sigmoid(tx) - (s - 1) / 2) * stride_x        w = exp(tw) * aw
    cy = (row    + s * sigmoid(ty) - (s - 1) / 2) * stride_y        h = exp(th) * ah
    score(class) = sigmoid(objectness) * sigmoid(class)

Suppression is greedy within a class, best score first. `iou` suppresses where IoU > threshold.
`darknet` is the `greedynms` of YOLOv4 cfg files: IoU - (d^2 / c^2)^0.6 > threshold, d the distance
of the centres, c the diagonal of the enclosing box (DIoU-NMS, arXiv 1911.08287, with Darknet's
exponent). Both compare boxes in source pixels before they are clipped to the frame.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.kernels import decode_and_suppress
from pipeline.inference.resize import BoxMapping

NmsKind = Literal["iou", "darknet"]
NMS_KINDS: tuple[NmsKind, ...] = ("iou", "darknet")

Floats = npt.NDArray[np.float32]


class Decoded(NamedTuple):
    """Kept objects, best score first: boxes (n, 4) float32, scores (n,) float32, ids (n,) int32."""

    boxes: Floats
    scores: Floats
    class_ids: npt.NDArray[np.int32]


def decode(
    heads: tuple[Floats, ...],
    anchors: tuple[Floats, ...],
    scales_x_y: tuple[float, ...],
    network_size: tuple[int, int],
    mapping: BoxMapping,
    *,
    score_threshold: float,
    nms_threshold: float,
    nms_kind: NmsKind = "iou",
    multi_label: bool = False,
    max_detections: int = 300,
) -> Decoded:
    """Turn the raw heads of one picture into the objects that survive suppression.

    - `heads[i]` (anchors * (5 + classes), rows, columns) float32, C-contiguous
    - `anchors[i]` (anchors, 2) float32, width and height in network pixels
    - `network_size` (width, height) of the network's input in pixels

    An anchor gives its best class, or with `multi_label` every class whose score is above
    `score_threshold` (as Darknet does). Boxes that are not finite (NaN or infinity in the heads)
    or that lie outside the frame are left out. The kernel holds no interpreter lock.
    """
    boxes, scores, class_ids = decode_and_suppress(
        heads,
        anchors,
        scales_x_y,
        network_size,
        mapping,
        float(score_threshold),
        float(nms_threshold),
        nms_kind == "darknet",
        multi_label,
        max_detections,
    )
    return Decoded(boxes, scores, class_ids)
