"""Darknet's yolo layers: raw outputs over anchors (YOLOv3, YOLOv4 and their tiny forms).

Formulas (Darknet's yolo layer; scale_x_y s from arXiv 2004.10934, section 3.4), for the cell at
(column, row) of an output with the given stride and an anchor of (aw, ah) network pixels:

    cx = (column + s * sigmoid(tx) - (s - 1) / 2) * stride_x        w = exp(tw) * aw
    cy = (row    + s * sigmoid(ty) - (s - 1) / 2) * stride_y        h = exp(th) * ah
    score(class) = sigmoid(objectness) * sigmoid(class)
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgspec
import numpy as np

from pipeline.errors import ModelError
from pipeline.inference import nms
from pipeline.inference.heads.family import Decoder, Family, Outputs, Positive, Shape
from pipeline.inference.kernels.kernel import kernel
from pipeline.inference.nms import Decoded, Limits
from pipeline.inference.preprocess import BoxMapping

_LOGIT_MARGIN = 1e-3  # the cheap test in logit space may only admit too many


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
def _box(output, first, row, column, anchor, scale_x_y, input_size, mapping):
    """One anchor's x1 y1 x2 y2 in source pixels, not clipped."""
    columns, rows = output.shape[2], output.shape[1]
    shift = (scale_x_y - 1.0) / 2.0
    x = (column + scale_x_y * _sigmoid(output[first, row, column]) - shift) / columns
    y = (row + scale_x_y * _sigmoid(output[first + 1, row, column]) - shift) / rows
    half_width = math.exp(np.float64(output[first + 2, row, column])) * anchor[0] / 2.0
    half_height = math.exp(np.float64(output[first + 3, row, column])) * anchor[1] / 2.0
    x *= input_size[0]
    y *= input_size[1]
    return (
        (x - half_width) * mapping.scale_x + mapping.offset_x,
        (y - half_height) * mapping.scale_y + mapping.offset_y,
        (x + half_width) * mapping.scale_x + mapping.offset_x,
        (y + half_height) * mapping.scale_y + mapping.offset_y,
    )


@kernel
def _best_class(output, first, row, column, classes):
    """The class of the greatest logit, the first of several; 0 if all are NaN."""
    best = 0
    greatest = -np.inf
    for class_id in range(classes):
        logit = output[first + class_id, row, column]
        if logit > greatest:
            best, greatest = class_id, logit
    return best


@kernel(uses=[nms])
def _collect(
    output, anchors, scale_x_y, input_size, mapping, score_threshold, multi_label,
    boxes, scores, class_ids, count,
):  # fmt: skip
    """Append every candidate of one output; only anchors that can reach the score are decoded."""
    classes = output.shape[0] // len(anchors) - 5
    rows, columns = output.shape[1], output.shape[2]
    least_objectness = _logit(score_threshold) - _LOGIT_MARGIN
    for anchor in range(len(anchors)):
        first = anchor * (5 + classes)
        for row in range(rows):
            for column in range(columns):
                if not output[first + 4, row, column] > least_objectness:  # false for NaN too
                    continue
                box = _box(
                    output, first, row, column, anchors[anchor], scale_x_y, input_size, mapping
                )
                if not nms.is_visible(box, mapping):
                    continue
                objectness = _sigmoid(output[first + 4, row, column])
                least_class = _logit(score_threshold / objectness) - _LOGIT_MARGIN
                begin, end = 0, classes
                if not multi_label:
                    begin = _best_class(output, first + 5, row, column, classes)
                    end = begin + 1
                for class_id in range(begin, end):
                    logit = output[first + 5 + class_id, row, column]
                    if logit > least_class:
                        boxes, scores, class_ids, count = nms.append(
                            boxes, scores, class_ids, count,
                            box, objectness * _sigmoid(logit), class_id, score_threshold,
                        )  # fmt: skip
    return boxes, scores, class_ids, count


@kernel(uses=[nms])
def decode_darknet(
    outputs, anchors, scales_x_y, input_size, mapping,
    score_threshold, nms_threshold, by_distance, multi_label, max_detections,
):  # fmt: skip
    """Outputs to boxes (n, 4) float32, scores (n,) float32 and class ids (n,) int32."""
    boxes, scores, class_ids, count = nms.no_candidates()
    for i in range(len(outputs)):
        boxes, scores, class_ids, count = _collect(
            outputs[i], anchors[i], scales_x_y[i], input_size, mapping, score_threshold,
            multi_label, boxes, scores, class_ids, count,
        )  # fmt: skip
    return nms.suppress(
        boxes, scores[:count], class_ids, mapping, nms_threshold, by_distance, max_detections
    )


class DarknetOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One raw output `output`, (N, anchors * (5 + classes), rows, columns) float32.

    `anchors` are width and height in pixels of the network's input, already picked by the cfg's
    mask; `scale_x_y` is Darknet's grid-sensitivity factor (arXiv 2004.10934, section 3.4).
    """

    output: str
    anchors: tuple[tuple[Positive, Positive], ...]
    scale_x_y: Positive = 1.0


class DarknetHead(Family, frozen=True, kw_only=True, tag="darknet"):
    """The raw outputs of Darknet's yolo layers."""

    kernel: ClassVar[Any] = decode_darknet

    outputs: tuple[DarknetOutput, ...]

    def shapes(self, classes: int) -> dict[str, Shape]:
        """Anchors times 5 + classes channels; rows and columns are free."""
        return {
            output.output: [None, len(output.anchors) * (5 + classes), None, None]
            for output in self.outputs
        }

    def decoder(self, input_size: tuple[int, int]) -> Decoder:
        """The decoder; outputs are (anchors * (5 + classes), rows, columns), C-contiguous.

        An anchor gives its best class, or with `multi_label` every class whose score is above the
        threshold (as Darknet does).
        """
        anchors = tuple(np.array(output.anchors, np.float32) for output in self.outputs)
        scales_x_y = tuple(float(output.scale_x_y) for output in self.outputs)

        def decode(outputs: Outputs, mapping: BoxMapping, limits: Limits) -> Decoded:
            return Decoded(
                *decode_darknet(tuple(outputs), anchors, scales_x_y, input_size, mapping, *limits)
            )

        return decode

    def problem(self, outputs: Outputs) -> str | None:
        """That every objectness and class lies between 0 and 1: a sigmoid has been applied."""
        parts = []
        for output, values in zip(self.outputs, outputs, strict=True):
            anchors = len(output.anchors)
            parts.append(values.reshape(anchors, values.shape[1] // anchors, -1)[:, 4:].ravel())
        scores = np.concatenate(parts)
        if scores.min() < 0 or scores.max() > 1 or scores.min() == scores.max():
            return None
        return (
            "expected outputs of yolo layers as they leave the last convolution, but every score "
            "lies between 0 and 1, as after a sigmoid; export the network without its yolo layers"
        )

    def describe(self) -> dict[str, str]:
        """Anchors and scale_x_y of each output."""
        return {
            output.output: f"anchors {output.anchors}, scale_x_y {output.scale_x_y:g}"
            for output in self.outputs
        }


def upgrade(data: dict[str, Any], subject: str) -> dict[str, Any]:
    """The tables of a manifest or of a stored spec, with `heads` and `anchors` as one `head`.

    That is the older form for Darknet's networks, before other families existed: a list of
    outputs, each with anchors of its own or a mask that picks from those of all. Raises
    `ModelError` if a mask picks none.
    """
    data = dict(data)
    heads, anchors = data.pop("heads", []), data.pop("anchors", None)
    if isinstance(heads, list):
        if anchors is not None and not any(isinstance(h, dict) and "mask" in h for h in heads):
            raise ModelError(f"{subject}: anchors are for heads with a mask, but none has one")
        heads = [_with_anchors(head, anchors, subject) for head in heads]
    if heads:
        data["head"] = {"family": "darknet", "outputs": heads}
    return data


def downgrade(data: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `upgrade`, so that older versions can read what this one stores."""
    if data["head"] is not None and data["head"]["family"] != "darknet":
        return data
    heads = data["head"]["outputs"] if data["head"] else []
    # In the same place: a model that is built again must be the same file.
    return dict(("heads", heads) if key == "head" else (key, data[key]) for key in data)


def _with_anchors(head: Any, anchors: Any, subject: str) -> Any:
    """A head whose mask has become the anchors that it picks."""
    if not isinstance(head, dict) or "mask" not in head:
        return head
    head = {"output": "", **head}
    mask = head.pop("mask")
    try:
        if "anchors" in head or min(mask) < 0:
            raise IndexError
        head["anchors"] = [anchors[index] for index in mask]
    except (TypeError, IndexError, KeyError, ValueError) as error:
        known = len(anchors) if isinstance(anchors, list) else "no"
        raise ModelError(
            f"{subject}: expected a mask that picks some of {known} anchors, but got {mask}"
        ) from error
    return head
