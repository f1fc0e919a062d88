"""The whole pipeline over a video, every frame and crop, against a usual loop and bare models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, measure_pair
from benchmarks.models import FloatModels
from benchmarks.tutorial import TutorialLoop
from pipeline.engine import Pipeline
from pipeline.inference.classifier import BATCH, Classifier, crop_into
from pipeline.inference.detector import Detector
from pipeline.inference.processor import available_threads
from pipeline.sources import open_source


def run_pipeline(video: Path, frames: int, detector: Detector, classifier: Classifier) -> int:
    """Every frame through the pipeline; returns the number of crops classified."""
    source = open_source(str(video))
    with Pipeline(source, detector, classifier, max_frames=frames) as results:
        return sum(len(result.detections) for result in results)


def speed_figures(video: Path, frames: int, rounds: int, models: FloatModels) -> Iterator[Figure]:
    """Frames per second relative to the tutorials' loop, with int8 and with its own fp32 models."""
    ours_int8 = Detector(threads=1), Classifier(threads=1)
    ours_fp32 = Detector(models.detector, threads=1), Classifier(models.classifier, threads=1)
    usual = TutorialLoop(models.blob_detector, models.blob_classifier, ours_fp32[0].model.spec)
    done, crops = usual.run(video, frames)
    for name, (detector, classifier), target in (
        ("int8", ours_int8, 3.0),
        ("the same fp32 models", ours_fp32, 1.4),
    ):
        pair = measure_pair(
            lambda: usual.run(video, frames),
            lambda d=detector, c=classifier: run_pipeline(video, frames, d, c),
            rounds,
        )
        yield Figure(
            f"pipeline over the tutorials' loop, {name}",
            pair.ratio,
            "x",
            target,
            detail=f"{done / pair.second_s:.1f} against {done / pair.first_s:.1f} frames/s, "
            f"{crops / done:.1f} crops per frame, ratios {pair.lowest:.2f} to {pair.highest:.2f}",
        )


def efficiency_figure(video: Path, frames: int, rounds: int) -> Figure:
    """The time of bare model calls for the same frames, on all cores, over the pipeline's time."""
    bare = BareCalls(video, frames)
    detector, classifier = Detector(threads=1), Classifier(threads=1)
    pair = measure_pair(bare.run, lambda: run_pipeline(video, frames, detector, classifier), rounds)
    return Figure(
        "efficiency: bare model calls / pipeline",
        pair.ratio,
        "",
        0.95,
        detail=f"{pair.first_s / frames * 1e3:.2f} ms of model calls against "
        f"{pair.second_s / frames * 1e3:.2f} ms per frame for everything, "
        f"ratios {pair.lowest:.2f} to {pair.highest:.2f}",
    )


class BareCalls:
    """The inputs that the pipeline gives its models, prepared in memory."""

    def __init__(self, video: Path, frames: int) -> None:
        threads = available_threads()
        self.detector, self.classifier = Detector(threads=threads), Classifier(threads=threads)
        spec = self.classifier.model.spec.input
        self.pixels: list[np.ndarray] = []
        self.crops: list[list[np.ndarray]] = []
        with open_source(str(video)) as source:
            while len(self.pixels) < frames and (frame := source.read()) is not None:
                prepared = self.detector.prepare(frame.image)
                boxes = self.detector.infer(prepared).boxes
                crops = np.empty((len(boxes), spec.height, spec.width, 3), np.uint8)
                for box, crop in zip(boxes, crops, strict=True):
                    crop_into(frame.image, box, crop)
                self.pixels.append(prepared.pixels)
                self.crops.append([crops[i : i + BATCH] for i in range(0, len(crops), BATCH)])

    def run(self) -> None:
        for pixels, batches in zip(self.pixels, self.crops, strict=True):
            self.detector.model.run(pixels)
            for batch in batches:
                self.classifier.model.run(batch)
