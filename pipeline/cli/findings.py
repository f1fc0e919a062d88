"""What a run has found, object by object, as a table's rows and as one picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.errors import InputError, OutputError
from pipeline.output.drawing import draw
from pipeline.output.files import check_target
from pipeline.types import Image, Result

TILES = 3
TILE = 480  # pixels of a side
MARGIN = 0.15  # around the object, of its longer side
SMALLEST = 240  # pixels of the frame that a tile shows at least
JPEG_QUALITY = 85
LEAST_MEAN = 0.02


class View(NamedTuple):
    """One object in one frame; whole ones are better than cut-off ones, then the score counts."""

    is_whole: bool
    score: float
    box: tuple[float, ...]
    result: Result


@dataclass(slots=True)
class Found:
    """All objects of one class: in how many frames, how certain, under which finer names."""

    label: str
    frames: int = 0
    objects: int = 0
    best_score: float = 0.0
    view: View | None = None
    names: dict[str, float] = field(default_factory=dict)

    def finer_names(self, count: int) -> list[tuple[str, float]]:
        """The likeliest finer names and their mean probabilities over all objects, best first.

        Those below `LEAST_MEAN` are left out: what the classifier has no name for gets many.
        """
        means = ((name, total / self.objects) for name, total in self.names.items())
        likely = [(name, mean) for name, mean in means if mean >= LEAST_MEAN]
        return sorted(likely, key=lambda item: -item[1])[:count]


class Findings:
    """An output that keeps the best view of each class and counts the rest."""

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
            view = _view(result, i)
            found.best_score = max(found.best_score, view.score)
            if found.view is None or view[:2] > found.view[:2]:
                found.view = view
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
        """Write the best views of the classes seen most, side by side.

        Raises `OutputError`.
        """
        views = [found.view for found in self.most_seen() if found.view][:TILES]
        picture = np.concatenate([_tile(view) for view in views], axis=1)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _, data = cv2.imencode(path.suffix, picture, quality)
        try:
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise OutputError(f"--output {path}: cannot be written: {error.strerror}") from error


def check_picture_target(path: Path) -> None:
    """See whether a picture can be written to `path`, before anything runs; raises `InputError`."""
    check_target(path, "--output")
    if not path.suffix or not cv2.haveImageWriter(path.name):
        raise InputError(f"--output {path}: no kind of picture; expected a name such as found.jpg")


def _view(result: Result, i: int) -> View:
    """Object `i` of a result; one that the picture's border cuts off is not whole."""
    detections, header = result.detections, result.header
    x1, y1, x2, y2 = box = tuple(detections.boxes[i].tolist())
    is_whole = min(x1, y1) > 1 and x2 < header.width - 1 and y2 < header.height - 1
    return View(is_whole, float(detections.scores[i]), box, result)


def _tile(view: View) -> Image:
    """A square around the object, drawn after scaling so that the labels can be read."""
    if view.result.image is None:
        raise OutputError(f"frame {view.result.header.seq} came without its picture")
    height, width = view.result.image.shape[:2]
    x1, y1, x2, y2 = view.box
    side = min(max((1 + 2 * MARGIN) * max(x2 - x1, y2 - y1), SMALLEST), width, height)
    scale = TILE / side
    size = max(TILE, round(width * scale)), max(TILE, round(height * scale))
    drawn = draw(cv2.resize(view.result.image, size, interpolation=cv2.INTER_AREA), view.result)
    left = _start((x1 + x2) / 2 * scale, size[0])
    top = _start((y1 + y2) / 2 * scale, size[1])
    return drawn[top : top + TILE, left : left + TILE]


def _start(middle: float, length: int) -> int:
    """Where a tile around `middle` begins that lies within `length` pixels."""
    return min(max(round(middle - TILE / 2), 0), length - TILE)
