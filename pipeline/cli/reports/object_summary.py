"""Summarises the objects of a run: counts by class, and an image of the best views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.errors import InputError, OutputError
from pipeline.files.writing import write_atomically
from pipeline.images import encode_image
from pipeline.output.drawing import draw
from pipeline.output.files import check_target
from pipeline.output.output import Output
from pipeline.settings import Settings
from pipeline.text.native import utf8
from pipeline.types import Image, Result

TILES = 3
TILE = 480  # pixels of a side
MARGIN = 0.15  # around the object, of its longer side
SMALLEST = 240  # pixels of the frame that a tile shows at least
LEAST_MEAN = 0.02


class View(NamedTuple):
    """One object in one frame. A whole object is better than one cut off, then the score counts."""

    is_whole: bool
    score: float
    box: tuple[float, ...]
    result: Result


@dataclass(slots=True)
class ClassSummary:
    """All objects of one detector class: frames, objects, best score and classifier classes."""

    label: str
    frames: int = 0
    objects: int = 0
    best_score: float = 0.0
    view: View | None = None
    totals: dict[str, float] = field(default_factory=dict)

    def classes(self, count: int) -> list[tuple[str, float]]:
        """The likeliest classes with their mean probabilities over all objects, best first.

        Classes below `LEAST_MEAN` are left out: an object that the classifier does not know gets
        many of them.
        """
        means = ((name, total / self.objects) for name, total in self.totals.items())
        likely = [(name, mean) for name, mean in means if mean >= LEAST_MEAN]
        return sorted(likely, key=lambda item: -item[1])[:count]


class ObjectSummary(Output):
    """An output that counts the objects of each class and keeps the best view of one."""

    def __init__(self) -> None:
        self.objects: dict[str, ClassSummary] = {}

    def write(self, result: Result) -> None:
        """Add the objects of one frame."""
        detections = result.detections
        labels = [detections.labels[class_id] for class_id in detections.class_ids]
        for i, label in enumerate(labels):
            found = self.objects.setdefault(label, ClassSummary(label))
            found.frames += label not in labels[:i]
            found.objects += 1
            view = _view(result, i)
            found.best_score = max(found.best_score, view.score)
            if found.view is None or view[:2] > found.view[:2]:
                found.view = view
            classes = result.classifications
            if classes is not None:
                for class_id, score in zip(classes.ids[i], classes.scores[i], strict=True):
                    name = classes.labels[class_id]
                    found.totals[name] = found.totals.get(name, 0.0) + float(score)

    def close(self) -> None:
        """Do nothing; no file is open."""

    def most_seen(self) -> list[ClassSummary]:
        """The classes, those seen in most frames first."""
        return sorted(self.objects.values(), key=lambda found: (-found.frames, found.label))

    def write_image(self, path: Path) -> None:
        """Write the best views of the classes seen most, side by side.

        Raises `OutputError`.
        """
        views = [found.view for found in self.most_seen() if found.view][:TILES]
        image = np.concatenate([_tile(view) for view in views], axis=1)
        data = encode_image(image, path.suffix, Settings.quality)
        write_atomically(path, data, f"--output {path}", makes_folder=False)


def check_image_target(path: Path) -> None:
    """Check that an image can be written to `path`. Raises `InputError`."""
    check_target(path, "--output")
    if not path.suffix or not cv2.haveImageWriter(utf8(path.name)):
        raise InputError(f"--output {path}: not an image format; expected a name such as found.jpg")


def _view(result: Result, i: int) -> View:
    """Object `i` of a result; an object that the image border cuts off is not whole."""
    detections, header = result.detections, result.header
    x1, y1, x2, y2 = box = tuple(detections.boxes[i].tolist())
    is_whole = min(x1, y1) > 1 and x2 < header.width - 1 and y2 < header.height - 1
    return View(is_whole, float(detections.scores[i]), box, result)


def _tile(view: View) -> Image:
    """A square around the object, annotated after scaling so that the labels are readable."""
    if view.result.image is None:
        raise OutputError(f"frame {view.result.header.seq} came without its image")
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
    """The start of a tile that is centred at `middle` and lies within `length` pixels."""
    return min(max(round(middle - TILE / 2), 0), length - TILE)
