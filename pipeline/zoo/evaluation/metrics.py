"""What a model is measured by: true answers where there are some, else a reference's answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.detector import Detector
from pipeline.inference.session import Model, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.types import Detections
from pipeline.zoo.datasets.boxes import read_boxes
from pipeline.zoo.datasets.image_folders import UsablePictures
from pipeline.zoo.evaluation.agreement import Agreement, same_objects
from pipeline.zoo.evaluation.classification import evaluate_pictures, read_classes, tested_crop
from pipeline.zoo.evaluation.detection import check_measurable, evaluate_detector
from pipeline.zoo.evaluation.detector_accuracy import open_to_evaluate

SCORE = 0.25
"""Objects above this score are compared where there are no true boxes."""


class Yardstick(NamedTuple):
    """`measure` gives a model's figure in percent, the higher the better, called `name`."""

    name: str
    pictures: int
    measure: Callable[[Path], float]


def yardstick_by_labels(
    spec: ModelSpec, data: Path, only: Collection[Path] | None = None
) -> Yardstick:
    """AP over true boxes, or top-1 over true classes; of `only` some of the pictures.

    Raises `InputError` where `data` has no known form, or classes that the model does not know, or
    pictures that are not there, and `DependencyError` without pycocotools where that is needed.
    """
    if spec.task == "detect":
        boxes = read_boxes(data, spec.labels)
        boxes = [picture for picture in boxes if only is None or picture.path in only]
        check_measurable(boxes)
        usable = UsablePictures(data, [picture.path for picture in boxes])
        usable.check_presence()

        def average_precision(path: Path) -> float:
            return evaluate_detector(open_to_evaluate(path), boxes, lambda: usable).ap

        return Yardstick("AP", len(boxes), average_precision)
    classes = read_classes(data, spec.labels)
    shown = UsablePictures(data, list(classes))
    shown.check_presence()

    def top1(path: Path) -> float:
        model = open_model(path, task="classify")
        return evaluate_pictures(model, classes, shown).accuracy.top1

    return Yardstick("top-1", len(classes), top1)


def yardstick_by_reference(
    spec: ModelSpec, reference: Path, folder: Path, pictures: Sequence[Path]
) -> Yardstick:
    """Agreement with the model file `reference` over `pictures` of `folder`.

    Of a detector the share of objects that both find, of a classifier that of pictures of which
    both say the same.
    """
    usable = UsablePictures(folder, pictures)
    name = f"agreement with {reference.stem}"
    if spec.task == "detect":
        objects = _objects(reference, usable)

        def share_of_objects(path: Path) -> float:
            pairs = zip(objects, _objects(path, usable), strict=True)
            return sum((same_objects(*pair) for pair in pairs), Agreement(0, 0)).percent

        return Yardstick(name, len(objects), share_of_objects)
    answers = _answers(open_model(reference), usable)

    def share_of_pictures(path: Path) -> float:
        return 100.0 * float(np.mean(_answers(open_model(path), usable) == answers))

    return Yardstick(name, len(answers), share_of_pictures)


def _objects(path: Path, pictures: UsablePictures) -> list[Detections]:
    detect = Detector(path, score_threshold=SCORE)
    return [detect(image) for _, image in pictures]


def _answers(model: Model, pictures: UsablePictures) -> npt.NDArray[np.int_]:
    entry = model.spec.input
    crops = (tested_crop(image, entry.width, entry.height) for _, image in pictures)
    return np.array([int(model.run(crop[None])[0].argmax()) for crop in crops])
