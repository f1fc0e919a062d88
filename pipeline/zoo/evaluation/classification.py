"""Top-1 and top-5 accuracy and confusion of a classifier over images of known classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, ModelError
from pipeline.inference.session import Model
from pipeline.types import Image

_CENTRAL_SHARE = 224 / 256  # of the shorter side, as in ImageNet's test

Logits = npt.NDArray[np.float32]
ClassIds = npt.NDArray[np.int64]


class TopAccuracy(NamedTuple):
    """Percent of images whose class has the highest score, and one of the five highest."""

    top1: float
    top5: float


class ClassifierReport(NamedTuple):
    """The true `classes` (n,) of images and the best `answers` (n,) of a classifier."""

    accuracy: TopAccuracy
    classes: ClassIds
    answers: ClassIds


class ConfusionTable(NamedTuple):
    """Counts (k, k) by true class (row) and answer (column); `class_ids` (k,) of both.

    An optional further column counts the answers that are none of these classes.
    """

    counts: npt.NDArray[np.int64]
    class_ids: ClassIds


def central_crop(image: Image, width: int, height: int) -> Image:
    """Return the centre of an image, resized to a network's input, as ImageNet is tested.

    The crop is 7/8 of the largest area with the aspect ratio of the input. The interpolation gets
    smoother with the scale: networks with small inputs were trained on unsmoothed images.
    """
    scale = min(image.shape[1] / width, image.shape[0] / height) * _CENTRAL_SHARE
    crop_width = max(1, min(image.shape[1], round(width * scale)))
    crop_height = max(1, min(image.shape[0], round(height * scale)))
    top = round((image.shape[0] - crop_height) / 2)
    left = round((image.shape[1] - crop_width) / 2)
    crop = image[top : top + crop_height, left : left + crop_width]
    filters = ((1.5, cv2.INTER_CUBIC), (2.0, cv2.INTER_LINEAR), (np.inf, cv2.INTER_AREA))
    interpolation = next(kind for limit, kind in filters if scale < limit)
    return np.asarray(cv2.resize(crop, (width, height), interpolation=interpolation), np.uint8)


def evaluate_classifier(
    model: Model, classes: dict[Path, int], images: Iterable[tuple[Path, Image]]
) -> ClassifierReport:
    """Run `model` on the central crop of each image.

    Raises `InputError` if there is no image, `ModelError` if the model returns NaN.
    """
    truth: list[int] = []
    logits: list[Logits] = []
    for paths, pixels in _batches(images, model):
        logits.append(model.run(pixels)[0])
        truth += [classes[path] for path in paths]
    if not truth:
        raise InputError("evaluation: expected images of known classes, but there are none")
    answers, ids = np.concatenate(logits), np.array(truth, np.int64)
    if np.isnan(answers).any():
        raise ModelError(f"{model.path}: expected logits that are numbers, but some are NaN")
    return ClassifierReport(top_accuracy(answers, ids), ids, answers.argmax(axis=1))


def top_accuracy(logits: Logits, classes: npt.NDArray[np.integer]) -> TopAccuracy:
    """Return top-1 and top-5 of logits (n, k) for the true `classes` (n,), in percent.

    A class that ties with the true one ranks before it.
    """
    truth = np.take_along_axis(logits, classes[:, None], axis=1)
    rank = (logits >= truth).sum(axis=1) - 1
    return TopAccuracy(100.0 * float(np.mean(rank < 1)), 100.0 * float(np.mean(rank < 5)))


def confusion(report: ClassifierReport) -> ConfusionTable:
    """Count the answers for each class that occurs in the truth."""
    class_ids = np.unique(report.classes)
    rows = np.searchsorted(class_ids, report.classes)
    is_known = np.isin(report.answers, class_ids)
    columns = np.where(is_known, np.searchsorted(class_ids, report.answers), len(class_ids))
    counts = np.zeros((len(class_ids), len(class_ids) + int(not is_known.all())), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return ConfusionTable(counts, class_ids)


def _batches(
    images: Iterable[tuple[Path, Image]], model: Model, size: int = 8
) -> Iterator[tuple[list[Path], npt.NDArray[np.uint8]]]:
    """Yield crops in batches of at most `size`, or of the fixed batch size of the graph."""
    entry = model.spec.input
    size = model.batch or size
    paths: list[Path] = []
    crops: list[Image] = []
    for path, image in images:
        paths.append(path)
        crops.append(central_crop(image, entry.width, entry.height))
        if len(paths) == size:
            yield paths, np.stack(crops)
            paths, crops = [], []
    if paths:
        yield paths, np.stack(crops)
