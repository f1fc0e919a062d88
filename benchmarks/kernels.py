"""Decoding and NMS, against NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from benchmarks.figures import Figure, measure_pair
from benchmarks.tutorial import numpy_decode
from pipeline.inference.detector import Detector
from pipeline.inference.nms import Limits
from pipeline.inference.preprocess import inverse, place

NMS_THRESHOLD = 0.45


def decode_figures(detector: Detector, frames: list[np.ndarray], rounds: int) -> Iterator[Figure]:
    """Raw outputs of real images to kept boxes, against NumPy and `NMSBoxesBatched`."""
    heads = [tuple(h[0] for h in detector.model.run(detector.prepare(f).pixels)) for f in frames]
    for score, target in ((0.25, 1 / 8), (0.001, 1 / 4)):
        ours, usual = _contestants(detector, frames[0].shape[:2], score)
        _require_the_same_boxes(ours, usual, heads)
        pair = measure_pair(
            lambda step=ours: [step(h) for h in heads],
            lambda step=usual: [step(h) for h in heads],
            rounds,
        )
        kept = sum(len(ours(h)[1]) for h in heads)
        yield Figure(
            f"decode + NMS / (NumPy + NMSBoxesBatched), score {score}",
            pair.ratio,
            "x",
            target,
            at_least=False,
            detail=f"{pair.first_s / len(heads) * 1e3:.3f} ms against "
            f"{pair.second_s / len(heads) * 1e3:.3f} ms, {kept / len(heads):.1f} boxes per frame",
        )


Heads = tuple[np.ndarray, ...]
Step = Callable[[Heads], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _contestants(
    detector: Detector, frame_size: tuple[int, int], score: float
) -> tuple[Step, Step]:
    spec = detector.model.spec
    height, width = frame_size
    size = (spec.input.width, spec.input.height)
    mapping = inverse(place(width, height, *size, spec.input.fit))
    decode, limits = spec.head.decoder(size), Limits(score, NMS_THRESHOLD, max_detections=10_000)

    def ours(heads: Heads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return decode(heads, mapping, limits)

    def usual(heads: Heads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores = numpy_decode([head[None] for head in heads], spec, width, height)
        class_ids = scores.argmax(1)
        best = scores[np.arange(len(scores)), class_ids]
        above = best > score
        boxes, best, class_ids = boxes[above], best[above], class_ids[above]
        kept = cv2.dnn.NMSBoxesBatched(boxes, best, class_ids, score, NMS_THRESHOLD)
        kept = np.array(kept, int).reshape(-1)
        return boxes[kept], best[kept], class_ids[kept]

    return ours, usual


def _require_the_same_boxes(ours: Step, usual: Step, heads: list[Heads]) -> None:
    """Speed counts only for the same result."""
    for head in heads:
        mine, theirs = ours(head), usual(head)
        a = sorted(zip(mine[2].tolist(), np.round(mine[1], 4).tolist(), strict=True))
        b = sorted(zip(theirs[2].tolist(), np.round(theirs[1], 4).tolist(), strict=True))
        if len(a) != len(b) or not np.allclose(a, b, atol=2e-4):
            raise SystemExit(f"the two kept different boxes: {len(a)} and {len(b)}")
