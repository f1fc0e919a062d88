"""COCO's average precision of a detector over images with true boxes.

AP is the mean over IoU thresholds 0.50 to 0.95, AP50 that at 0.50 (https://cocodataset.org/,
"Detection evaluation"), computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, InputError
from pipeline.images import read_image
from pipeline.inference.detector import Detector
from pipeline.inference.spec import ModelSpec
from pipeline.settings import SETTINGS, NmsKind, Settings
from pipeline.settings.table import EVALUATE
from pipeline.types import Detections, Image
from pipeline.zoo.datasets.annotations import LabelledImage

logger = logging.getLogger(__name__)

SCORE: float = SETTINGS["score"].default_of(EVALUATE)
"""Darknet's `valid` keeps every class of every box above this score, as COCO's AP needs it."""
RECALLS = np.arange(101) / 100
"""The recalls at which pycocotools samples the precision."""

_KEEP = 10_000
_ANY_SIZE, _MOST = 0, -1  # of pycocotools' areas and of its numbers of detections
_IOU50, _IOU75 = 0, 5
_SAME_SHAPE = 0.02  # of the aspect ratio, which rounding to whole pixels may change
_NO_BOXES = "evaluation: expected images with true boxes, but none has any"


class ClassAccuracy(NamedTuple):
    """AP and AP50 of one class in percent, and its number of true boxes."""

    class_id: int
    ap: float
    ap50: float
    boxes: int


class Accuracy(NamedTuple):
    """AP and related figures in percent, over a number of images.

    AP of small objects (up to 32 x 32 pixels), medium and large ones (from 96 x 96) is None if
    there are none. `precision50` and `precision75` (101,) are the precision at the recalls 0, 0.01,
    ... 1 for an IoU of 0.50 and 0.75, averaged over the classes.
    """

    ap: float
    ap50: float
    images: int
    ap75: float = 0.0
    small: float | None = None
    medium: float | None = None
    large: float | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    precision50: npt.NDArray[np.float64] | None = None
    precision75: npt.NDArray[np.float64] | None = None


def open_to_evaluate(
    model: str | Path,
    *,
    score_threshold: float = SCORE,
    nms_threshold: float = Settings.nms,
    nms_kind: NmsKind = Settings.nms_kind,
    threads: int | None = None,
    spec: ModelSpec | None = None,
) -> Detector:
    """Open a detector that returns everything it finds, every class of a box, as AP needs it."""
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


def evaluate_detector(
    detect: Callable[[Image], Detections],
    images: Iterable[LabelledImage],
    read: Callable[[], Iterable[tuple[Path, Image]]] | None = None,
) -> Accuracy:
    """Return AP and related figures of `detect` over `images`.

    COCO uses the 100 best detections per class and image, also with very low scores: `detect`
    should keep scores down to 0.001. `read` yields paths and pixels, and may skip images that
    cannot be read; these do not count.

    Raises `DependencyError` if pycocotools is not installed, `InputError` if there are no true
    boxes, and without `read` `FrameError` if an image cannot be read.
    """
    by_path = {image.path: image for image in images}
    check_measurable(by_path.values())  # before all the work
    sizes: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    results: list[npt.NDArray[np.float64]] = [np.empty((0, 7))]
    source = ((path, read_image(path)) for path in by_path) if read is None else read()
    reshaped: list[str] = []
    for image_id, (path, pixels) in enumerate(source, start=1):
        height, width = pixels.shape[:2]
        sizes.append({"id": image_id, "width": width, "height": height})
        if not _has_shape(by_path[path].size, width, height):
            reshaped.append(path.name)
        for truth in _truths(by_path[path], width, height):
            truths.append({**truth, "id": len(truths) + 1, "image_id": image_id})
        results.append(_results(detect(pixels), image_id))
    _warn_of_shapes(reshaped, len(sizes))
    if not any(not truth["iscrowd"] for truth in truths):
        raise InputError(_NO_BOXES)
    return _accuracy(sizes, truths, np.concatenate(results))


def check_measurable(images: Iterable[LabelledImage]) -> None:
    """Check what `evaluate_detector` needs, to be called before long work.

    Raises `DependencyError` if pycocotools is not installed, `InputError` if there are no true
    boxes.
    """
    _require_pycocotools()
    if not any(_has_box(image) for image in images):
        raise InputError(_NO_BOXES)


def _has_box(image: LabelledImage) -> bool:
    return len(image.boxes) > 0 and (image.optional is None or not image.optional.all())


def _has_shape(size: tuple[int, int] | None, width: int, height: int) -> bool:
    """Return whether an image has the aspect ratio that its labels state."""
    return size is None or abs(size[0] * height / (size[1] * width) - 1) <= _SAME_SHAPE


def _warn_of_shapes(reshaped: list[str], total: int) -> None:
    if reshaped:
        logger.warning(
            "%d of %d images have another aspect ratio than their labels state, for example %s: "
            "the boxes do not fit; were images rotated or cropped after labelling?",
            len(reshaped),
            total,
            reshaped[0],
        )


def _accuracy(
    images: list[dict[str, Any]], truths: list[dict[str, Any]], found: npt.NDArray[np.float64]
) -> Accuracy:
    """Return pycocotools' figures for true and found boxes."""
    if not len(found):  # pycocotools does not accept an empty list
        return Accuracy(0.0, 0.0, len(images))
    ground_truth, coco_eval = _require_pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = ground_truth()
        truth.dataset = {"images": images, "annotations": truths, "categories": _categories(truths)}
        truth.createIndex()
        evaluation = coco_eval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large = (
        None if value < 0 else 100.0 * float(value) for value in evaluation.stats[:6]
    )
    precision = evaluation.eval["precision"][..., _ANY_SIZE, _MOST]  # IoU, recall, class
    return Accuracy(
        ap or 0.0,
        ap50 or 0.0,
        len(images),
        ap75 or 0.0,
        small,
        medium,
        large,
        classes=tuple(_by_class(truths, evaluation.params.catIds, precision)),
        precision50=np.asarray(precision[_IOU50].mean(axis=1, where=precision[_IOU50] >= 0)),
        precision75=np.asarray(precision[_IOU75].mean(axis=1, where=precision[_IOU75] >= 0)),
    )


def _by_class(
    truths: list[dict[str, Any]], class_ids: list[int], precision: npt.NDArray[np.float64]
) -> Iterator[ClassAccuracy]:
    for index, class_id in enumerate(class_ids):
        count = sum(t["category_id"] == int(class_id) and not t["iscrowd"] for t in truths)
        if count:
            of_class = 100.0 * precision[:, :, index]
            yield ClassAccuracy(
                int(class_id), float(of_class.mean()), float(of_class[_IOU50].mean()), count
            )


def _truths(image: LabelledImage, width: int, height: int) -> Iterator[dict[str, Any]]:
    boxes = image.boxes * np.array([width, height, width, height])
    areas = boxes[:, 2] * boxes[:, 3]
    if image.areas is not None:
        areas = image.areas * (width * height)
    optional = np.zeros(len(boxes), np.bool_) if image.optional is None else image.optional
    for class_id, (x, y, w, h), area, is_optional in zip(
        image.class_ids, boxes, areas, optional, strict=True
    ):
        yield {
            "category_id": int(class_id),
            "bbox": [float(value) for value in (x - w / 2, y - h / 2, w, h)],
            "area": float(area),
            "iscrowd": int(is_optional),
        }


def _results(found: Detections, image_id: int) -> npt.NDArray[np.float64]:
    """Return rows of image id, x, y, width, height, score, class, as pycocotools reads them."""
    rows = np.empty((len(found), 7), np.float64)
    rows[:, 0] = image_id
    rows[:, 1:3] = found.boxes[:, :2]
    rows[:, 3:5] = found.boxes[:, 2:] - found.boxes[:, :2]
    rows[:, 5] = found.scores
    rows[:, 6] = found.class_ids
    return rows


def _categories(truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes that occur: without a true box, the precision is undefined."""
    return [{"id": class_id} for class_id in sorted({truth["category_id"] for truth in truths})]


def _require_pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415  (an extra, needed only to evaluate)
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise DependencyError(
            "pycocotools: needed to evaluate, but not installed; pip install pycocotools"
        ) from error
    return COCO, COCOeval
