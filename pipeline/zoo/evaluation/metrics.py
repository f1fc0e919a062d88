"""The metric a model is measured with: accuracy on labels, or agreement with a reference model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.detector import Detector
from pipeline.inference.session import Model, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.types import Detections
from pipeline.zoo import Report, no_report
from pipeline.zoo.datasets.boxes import read_boxes
from pipeline.zoo.datasets.classes import plain_name, read_classes
from pipeline.zoo.datasets.image_folders import ReadableImages
from pipeline.zoo.evaluation.classification import central_crop, evaluate_classifier
from pipeline.zoo.evaluation.detection import check_measurable, evaluate_detector, open_to_evaluate

SAME_OBJECT = 0.5
"""The least intersection over union of two boxes of the same object."""


class Metric(NamedTuple):
    """`measure` returns the figure `name` of a model file in percent, higher being better."""

    name: str
    images: int
    measure: Callable[[Path], float]


def metric_by_labels(
    spec: ModelSpec, data: Path, only: Collection[Path] | None = None, report: Report = no_report
) -> Metric:
    """Return AP over true boxes, or top-1 over true classes; with `only`, of these images.

    Raises `InputError` if `data` has an unknown format, unknown classes or missing images, and
    `DependencyError` if pycocotools is needed and not installed.
    """
    if spec.task == "detect":
        boxes = read_boxes(data, spec.labels, report=report)
        boxes = [image for image in boxes if only is None or image.path in only]
        check_measurable(boxes)
        readable = ReadableImages(data, [image.path for image in boxes])
        readable.check_presence()

        def average_precision(path: Path) -> float:
            return evaluate_detector(open_to_evaluate(path), boxes, lambda: readable).ap

        return Metric("AP", len(boxes), average_precision)
    classes = read_classes(data, spec.labels)
    shown = ReadableImages(data, list(classes))
    shown.check_presence()

    def top1(path: Path) -> float:
        return evaluate_classifier(open_model(path, task="classify"), classes, shown).accuracy.top1

    return Metric("top-1", len(classes), top1)


def metric_by_reference(
    spec: ModelSpec, reference: Path, folder: Path, images: Sequence[Path]
) -> Metric:
    """Return the agreement with the model file `reference` over `images` of `folder`.

    For a detector it is the share of objects that both find, for a classifier the share of images
    with the same class.
    """
    readable = ReadableImages(folder, images)
    name = f"agreement with {reference.stem}"
    if spec.task == "detect":
        objects = _objects(reference, readable)

        def share_of_objects(path: Path) -> float:
            pairs = zip(objects, _objects(path, readable), strict=True)
            return sum((same_objects(*pair) for pair in pairs), Agreement(0, 0)).percent

        return Metric(name, len(objects), share_of_objects)
    answers = _answers(open_model(reference), readable)

    def share_of_images(path: Path) -> float:
        return 100.0 * float(np.mean(_answers(open_model(path), readable) == answers))

    return Metric(name, len(answers), share_of_images)


def _objects(path: Path, images: ReadableImages) -> list[Detections]:
    detect = Detector(path)  # its score is that of a run
    return [detect(image) for _, image in images]


def _answers(model: Model, images: ReadableImages) -> npt.NDArray[np.int_]:
    entry = model.spec.input
    crops = (central_crop(image, entry.width, entry.height) for _, image in images)
    return np.array([int(model.run(crop[None])[0].argmax()) for crop in crops])


class Agreement(NamedTuple):
    """The number of answers that two models share, and of all answers of both."""

    shared: int
    given: int

    @property
    def percent(self) -> float:
        """100 if all answers are shared, also if there are none."""
        return 200.0 * self.shared / self.given if self.given else 100.0

    def __add__(self, other: object) -> Agreement:
        if not isinstance(other, Agreement):
            return NotImplemented
        return Agreement(self.shared + other.shared, self.given + other.given)


def same_objects(first: Detections, second: Detections) -> Agreement:
    """Match objects of the same label and place, best score first, each at most once.

    The models may number their classes differently: labels are compared, not ids.
    """
    overlap = overlaps(first.boxes, second.boxes)
    for row, class_id in enumerate(first.class_ids):
        for column, other_id in enumerate(second.class_ids):
            if not is_same_label(first.labels[class_id], second.labels[other_id]):
                overlap[row, column] = 0.0
    shared = 0
    for row in overlap:
        if len(row) and row.max() >= SAME_OBJECT:
            overlap[:, row.argmax()] = 0.0
            shared += 1
    return Agreement(shared, len(first) + len(second))


@lru_cache(maxsize=65536)
def is_same_label(first: str, second: str) -> bool:
    """Return whether two labels, lists of synonyms separated by commas, share a name."""
    names = ({plain_name(name) for name in label.split(",")} for label in (first, second))
    return bool(set.intersection(*names))


def overlaps(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the intersection over union (n, m) of boxes (n, 4) and (m, 4)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: npt.NDArray[np.float32] = shared / np.maximum(union, 1e-9)
    return found
