"""How good and how fast the detector is, float against int8."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.detector import Detector
from pipeline.inference.nms import NmsKind
from pipeline.inference.session import Runtime, available_threads, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.zoo.evaluation.detection import Accuracy, LabelledPicture, evaluate_detector

SCORE = 0.001
"""Darknet's `valid` keeps every class of every box above this score, as COCO's AP needs it."""
NMS = 0.45

_KEEP = 10_000
_NMS: tuple[tuple[NmsKind, float], ...] = (("darknet", 0.6), ("iou", NMS))
_ROUNDS = 40
_WARM_UP = 5


class DetectorAccuracy(NamedTuple):
    """One model's accuracy under one kind of suppression."""

    model: str
    nms_kind: str
    nms_threshold: float
    accuracy: Accuracy


class PairedTiming(NamedTuple):
    """Milliseconds of a bare model call, both models by turns; `speedup` is the median ratio."""

    threads: int
    float32_ms: float
    int8_ms: float
    speedup: float


def open_to_evaluate(
    model: str | Path,
    *,
    score_threshold: float = SCORE,
    nms_threshold: float = NMS,
    nms_kind: NmsKind = "iou",
    threads: int | None = None,
    spec: ModelSpec | None = None,
) -> Detector:
    """A detector that gives all it finds, every class of a box: what AP is computed from."""
    return Detector(
        model,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        nms_kind=nms_kind,
        multi_label=True,
        max_detections=_KEEP,
        threads=threads,
        manifest=spec,
    )


def measure_accuracy(
    models: Sequence[Path], pictures: list[LabelledPicture]
) -> list[DetectorAccuracy]:
    """AP and AP50 of each model for Darknet's suppression and for plain IoU."""
    figures = []
    for path in models:
        for kind, threshold in _NMS:
            detect = open_to_evaluate(path, nms_threshold=threshold, nms_kind=kind)
            accuracy = evaluate_detector(detect, pictures)
            figures.append(DetectorAccuracy(path.stem, kind, threshold, accuracy))
    return figures


def measure_speed(float32: Path, int8: Path) -> list[PairedTiming]:
    """Both models by turns in one process, on one core and on all: noise hits both alike."""
    return [_pair(float32, int8, threads) for threads in sorted({1, available_threads()})]


def _pair(float32: Path, int8: Path, threads: int) -> PairedTiming:
    models = [open_model(path, runtime=Runtime(threads=threads)) for path in (float32, int8)]
    entry = models[0].spec.input
    pixels = np.random.default_rng(0).integers(
        0, 256, (1, entry.height, entry.width, 3), dtype=np.uint8
    )
    times: npt.NDArray[np.float64] = np.empty((_ROUNDS, 2))
    for row in times:
        for index, model in enumerate(models):
            start = time.perf_counter()
            model.run(pixels)
            row[index] = 1e3 * (time.perf_counter() - start)
    times = times[_WARM_UP:]
    float_ms, int8_ms = (float(value) for value in np.median(times, axis=0))
    return PairedTiming(threads, float_ms, int8_ms, float(np.median(times[:, 0] / times[:, 1])))
