"""How often a classifier is right, over pictures of which the class is known.

The pictures lie in a folder for each class, or are listed in a text file: one picture a line, its
class behind it, apart by a comma, a tab or the last space; paths are relative to the file, or to a
folder that is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, ModelError
from pipeline.inference.session import Model
from pipeline.types import Image
from pipeline.zoo.datasets.image_folders import class_folders
from pipeline.zoo.datasets.label_names import match_names

FORMS = (
    "a folder with a sub-folder of pictures for each class, or a text file of pictures and classes"
)

_LARGEST_LIST = 64 * 2**20
_TESTED_SHARE = 224 / 256  # of the shorter side, as ImageNet is tested

Logits = npt.NDArray[np.float32]
ClassIds = npt.NDArray[np.int64]


class TopAccuracy(NamedTuple):
    """Percent of pictures whose class is named first, and among the first five."""

    top1: float
    top5: float


class ClassifierReport(NamedTuple):
    """What a classifier said of pictures: `classes` (n,) is the truth, `answers` (n,) the first."""

    accuracy: TopAccuracy
    classes: ClassIds
    answers: ClassIds


class ConfusionTable(NamedTuple):
    """Counts (k, k): row the true class, column the answer; `class_ids` (k,) name both.

    A further column, where there is one, counts the answers that are none of these classes.
    """

    counts: npt.NDArray[np.int64]
    class_ids: ClassIds


def tested_crop(image: Image, width: int, height: int) -> Image:
    """The same part of the picture for a network of any input size, resized once.

    That is 7/8 of the largest area of the input's shape. The more pixels are skipped, the smoother
    the filter: networks of small inputs were trained on pictures sampled without smoothing.
    """
    scale = min(image.shape[1] / width, image.shape[0] / height) * _TESTED_SHARE
    crop_width = max(1, min(image.shape[1], round(width * scale)))
    crop_height = max(1, min(image.shape[0], round(height * scale)))
    top = round((image.shape[0] - crop_height) / 2)
    left = round((image.shape[1] - crop_width) / 2)
    crop = image[top : top + crop_height, left : left + crop_width]
    filters = ((1.5, cv2.INTER_CUBIC), (2.0, cv2.INTER_LINEAR), (np.inf, cv2.INTER_AREA))
    interpolation = next(kind for limit, kind in filters if scale < limit)
    return np.asarray(cv2.resize(crop, (width, height), interpolation=interpolation), np.uint8)


def read_classes(
    data: str | Path, labels: Sequence[str], images: str | Path | None = None
) -> dict[Path, int]:
    """The pictures of `data` and the class id of each.

    `images` is the folder of the pictures where they do not lie beside the text file.

    Raises `InputError` where `data` has neither form, or a class that the model does not know, and
    where `images` is no folder or `data` itself holds the pictures.
    """
    data = Path(data)
    if images is not None and (data.is_dir() or not Path(images).is_dir()):
        raise InputError(
            f"{images}: expected the folder of the pictures that a text file lists, "
            f"but {'the pictures lie in ' + str(data) if data.is_dir() else 'there is none'}"
        )
    if data.is_dir():
        by_name = class_folders(data)
        named = {path: name for name, paths in by_name.items() for path in paths}
    elif data.is_file() and data.suffix != ".json":
        named = _read_list(data, Path(images or data.parent))
    else:
        found = "it is none of them" if data.exists() else "there is no such file"
        raise InputError(f"{data}: expected {FORMS}, but {found}")
    names = sorted(set(named.values()))
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return {path: classes[name] for path, name in named.items()}


def evaluate_pictures(
    model: Model, classes: dict[Path, int], pictures: Iterable[tuple[Path, Image]]
) -> ClassifierReport:
    """Run `model` on one crop of each picture: the middle of it, as ImageNet is tested.

    Raises `InputError` where there is no picture, `ModelError` where the answers are no numbers.
    """
    truth: list[int] = []
    logits: list[Logits] = []
    for paths, pixels in _batches(pictures, model):
        logits.append(model.run(pixels)[0])
        truth += [classes[path] for path in paths]
    if not truth:
        raise InputError("evaluation: expected pictures of known classes, but there are none")
    answers, ids = np.concatenate(logits), np.array(truth, np.int64)
    if np.isnan(answers).any():
        raise ModelError(f"{model.path}: expected logits that are numbers, but some are NaN")
    return ClassifierReport(top_accuracy(answers, ids), ids, answers.argmax(axis=1))


def top_accuracy(logits: Logits, classes: npt.NDArray[np.integer]) -> TopAccuracy:
    """Top-1 and top-5 of logits (n, k) against the true `classes` (n,), in percent.

    A class that ties with the true one counts as named before it.
    """
    truth = np.take_along_axis(logits, classes[:, None], axis=1)
    rank = (logits >= truth).sum(axis=1) - 1
    return TopAccuracy(100.0 * float(np.mean(rank < 1)), 100.0 * float(np.mean(rank < 5)))


def confusion(report: ClassifierReport) -> ConfusionTable:
    """Which classes are taken for which, of the classes that occur in the truth."""
    class_ids = np.unique(report.classes)
    rows = np.searchsorted(class_ids, report.classes)
    is_known = np.isin(report.answers, class_ids)
    columns = np.where(is_known, np.searchsorted(class_ids, report.answers), len(class_ids))
    counts = np.zeros((len(class_ids), len(class_ids) + int(not is_known.all())), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return ConfusionTable(counts, class_ids)


def _batches(
    pictures: Iterable[tuple[Path, Image]], model: Model, size: int = 8
) -> Iterator[tuple[list[Path], npt.NDArray[np.uint8]]]:
    """Crops in batches of at most `size`, or of what the graph takes."""
    entry = model.spec.input
    size = model.batch or size
    paths: list[Path] = []
    crops: list[Image] = []
    for path, image in pictures:
        paths.append(path)
        crops.append(tested_crop(image, entry.width, entry.height))
        if len(paths) == size:
            yield paths, np.stack(crops)
            paths, crops = [], []
    if paths:
        yield paths, np.stack(crops)


def _read_list(data: Path, folder: Path) -> dict[Path, str]:
    """Pictures in `folder` and class names of a text file."""
    if data.stat().st_size > _LARGEST_LIST:
        raise InputError(f"{data}: expected a text file of pictures and classes, but it is larger")
    try:
        lines = data.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{data}: expected {FORMS}, but it cannot be read: {error}") from error
    found: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in _split(line)]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"{data}: line {number}: expected a picture and its class, but got '{line[:80]}'"
            )
        path, name = folder / parts[0], parts[1]
        if found.setdefault(path, name) != name:
            raise InputError(
                f"{data}: line {number}: {parts[0]} is '{name[:80]}', but was "
                f"'{found[path][:80]}' before"
            )
    if not found:
        raise InputError(f"{data}: expected lines of a picture and its class, but it has none")
    return found


def _split(line: str) -> list[str]:
    for separator in (",", "\t"):
        if separator in line:
            return line.split(separator, 1)
    return re.split(r"\s+(?=\S+$)", line.strip())
