"""What a run has found, object by object, as a table's rows and as one picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import OutputError
from pipeline.output.drawing import draw
from pipeline.types import Image, Result

TILES = 3
LARGE = (1280, 720)
SMALL = (640, 360)
JPEG_QUALITY = 85
LEAST_MEAN = 0.02


@dataclass(slots=True)
class Found:
    """All objects of one class: in how many frames, how certain, under which finer names."""

    label: str
    frames: int = 0
    objects: int = 0
    best_score: float = 0.0
    best: Result | None = None
    names: dict[str, float] = field(default_factory=dict)

    def finer_names(self, count: int) -> list[tuple[str, float]]:
        """The likeliest finer names and their mean probabilities over all objects, best first.

        Those below `LEAST_MEAN` are left out: what the classifier has no name for gets many.
        """
        means = ((name, total / self.objects) for name, total in self.names.items())
        likely = [(name, mean) for name, mean in means if mean >= LEAST_MEAN]
        return sorted(likely, key=lambda item: -item[1])[:count]


class Findings:
    """An output that keeps the best frame of each class and counts the rest."""

    def __init__(self) -> None:
        self.objects: dict[str, Found] = {}

    def write(self, result: Result) -> None:
        """Note the objects of one frame."""
        detections = result.detections
        labels = [detections.labels[class_id] for class_id in detections.class_ids]
        for i, label in enumerate(labels):
            found = self.objects.setdefault(label, Found(label))
            found.frames += label not in labels[:i]
            found.objects += 1
            if detections.scores[i] > found.best_score:
                found.best_score, found.best = float(detections.scores[i]), result
            finer = result.classifications
            if finer is not None:
                for class_id, score in zip(finer.ids[i], finer.scores[i], strict=True):
                    name = finer.labels[class_id]
                    found.names[name] = found.names.get(name, 0.0) + float(score)

    def close(self) -> None:
        """Nothing is open."""

    def most_seen(self) -> list[Found]:
        """The classes, those in most frames first."""
        return sorted(self.objects.values(), key=lambda found: (-found.frames, found.label))

    def write_picture(self, path: Path) -> None:
        """Write the best frames of the classes seen most: one large, two small below it.

        Raises `OutputError`.
        """
        results = {id(found.best): found.best for found in self.most_seen() if found.best}
        picture = _mosaic(list(results.values())[:TILES])
        encoded, data = cv2.imencode(
            path.suffix or ".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        if not encoded:
            raise OutputError(f"--output {path}: OpenCV cannot write pictures of that kind")
        try:
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise OutputError(f"--output {path}: cannot be written: {error.strerror}") from error


def _mosaic(results: list[Result]) -> Image:
    large = _tile(results[0], LARGE)
    small = [_tile(result, SMALL) for result in results[1:]]
    if not small:
        return large
    blank = np.zeros((SMALL[1], SMALL[0], 3), np.uint8)
    below = np.concatenate([*small, blank][: LARGE[0] // SMALL[0]], axis=1)
    return np.concatenate([large, below])


def _tile(result: Result, size: tuple[int, int]) -> Image:
    """The result's picture at that size, drawn after scaling so that labels can be read."""
    if result.image is None:
        raise OutputError(f"frame {result.header.seq} came without its picture")
    image = cv2.resize(result.image, size, interpolation=cv2.INTER_AREA)
    return draw(image, result)
