"""Ages of results on a live camera, also with a slow detector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.figures import Figure
from pipeline.engine import Pipeline
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector, Prepared
from pipeline.sources import open_source
from pipeline.types import Detections

SCENE = "scene:?size=1280x720&fps=30"
SLOWDOWN = 5


class SlowDetector(Detector):
    """Does the same work `SLOWDOWN` times."""

    def infer(self, prepared: Prepared) -> Detections:
        for _ in range(SLOWDOWN - 1):
            super().infer(prepared)
        return super().infer(prepared)


def isolated_medians_ms(frames: int = 100) -> dict[str, float]:
    """Each stage alone, back to back on all cores, on images of the same scene."""
    detector, classifier = Detector(), Classifier()
    with open_source("scene:?size=1280x720&fps=0") as source:
        images = [frame.image for _ in range(frames) if (frame := source.read()) is not None]
    prepared = [detector.prepare(image) for image in images]
    boxes = [detector.infer(p).boxes for p in prepared]
    return {
        "preprocess": _median_ms(detector.prepare, images),
        "detect": _median_ms(detector.infer, prepared),
        "classify": _median_ms(
            lambda pair: classifier(*pair), list(zip(images, boxes, strict=True))
        ),
    }


def _median_ms(step: Callable[..., object], inputs: list[object]) -> float:
    times = []
    for value in inputs:
        started = time.perf_counter()
        step(value)
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e3)


def live_figures(duration_s: float) -> Iterator[Figure]:
    """Age at 30 frames per second, its growth, and the age with a detector 5 times slower."""
    isolated = isolated_medians_ms()
    ages, stats = _watch(Detector(), duration_s)
    p50 = float(np.median(ages))
    parts = ", ".join(f"{name} {value:.1f}" for name, value in isolated.items())
    yield Figure(
        "live age p50 / sum of the stages' isolated medians",
        p50 / sum(isolated.values()),
        "x",
        1.6,
        at_least=False,
        detail=f"{p50:.1f} ms against {sum(isolated.values()):.1f} ms ({parts}); "
        f"p99 {stats['age_ms']['p99']:.1f} ms, {stats['dropped']} of {stats['captured']} dropped",
    )
    third = len(ages) // 3
    growth = float(np.median(ages[-third:]) / np.median(ages[:third]))
    yield Figure(
        f"live age, last third / first third of {duration_s:.0f} s",
        growth,
        "x",
        1.15,
        at_least=False,
    )
    ages, stats = _watch(SlowDetector(), duration_s / 3)
    lost = stats["captured"] - stats["processed"] - stats["dropped"] - stats["failed"]
    per_result_ms = stats["seconds"] / stats["processed"] * 1e3
    yield Figure(
        f"detector {SLOWDOWN} times slower: age p95 / time of one result",
        float(np.percentile(ages, 95)) / per_result_ms,
        "x",
        2.5,
        at_least=False,
        detail=f"p95 {np.percentile(ages, 95):.0f} ms, max {ages.max():.0f} ms; "
        f"{stats['dropped']} of {stats['captured']} frames dropped, {lost} unaccounted",
    )


def _watch(detector: Detector, duration_s: float) -> tuple[np.ndarray, dict]:
    ages = []
    with Pipeline(open_source(SCENE), detector, Classifier(), duration_s=duration_s) as results:
        ages = [(time.time_ns() - result.header.stamp_ns) / 1e6 for result in results]
    return np.array(ages), results.stats()
