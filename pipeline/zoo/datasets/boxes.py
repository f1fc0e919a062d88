"""Reader of images with true boxes: COCO JSON, Pascal VOC and YOLO folders.

The class ids are those of the measured model. COCO and VOC name their classes, and so does a YOLO
data set with a list of names: they are matched with the model's labels. Any other YOLO folder uses
the model's ids.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.zoo import Report, no_report
from pipeline.zoo.datasets.annotations import LabelledImage, read_coco, read_voc
from pipeline.zoo.datasets.image_folders import existing_folder
from pipeline.zoo.datasets.yolo import is_yolo, read_yolo

FORMS = "a COCO JSON file, a YOLO data set (a folder or its YAML file) or a Pascal VOC folder"

logger = logging.getLogger(__name__)


def read_boxes(
    data: str | Path,
    labels: Sequence[str],
    images: str | Path | None = None,
    report: Report = no_report,
) -> list[LabelledImage]:
    """Read the images of `data`, in any of the formats, with boxes of classes among `labels`.

    `images` is the folder of the images if it is not the usual one of the format. `report` is
    called meanwhile if the data set is large.

    Raises `InputError` if `data` has none of the formats, is damaged, or has a class that the model
    does not know.
    """
    data = Path(data)
    folder = None if images is None else existing_folder(images)
    return _without_impossible(data, _each_once(data, _read(data, labels, folder, report)))


def _read(
    data: Path, labels: Sequence[str], images: Path | None, report: Report
) -> list[LabelledImage]:
    annotations = data / "annotations"
    if os.path.isfile(data) and data.suffix == ".json":
        return read_coco(data, labels, images, report)
    if os.path.isdir(data / "Annotations") or _has_xml(data):
        return read_voc(data, labels, images, report)
    if _has_xml(annotations):
        return read_voc(annotations, labels, images or _images_beside(data), report)
    if os.path.isdir(annotations) and (listed := sorted(annotations.glob("*.json"))):
        if len(listed) > 1:
            names = ", ".join(path.name for path in listed)
            raise InputError(f"{annotations}: expected one JSON file, but it has {names}; name one")
        return read_coco(listed[0], labels, images or _images_beside(data), report)
    if is_yolo(data):
        return read_yolo(data, labels, images, report)
    found = "it is none of them" if os.path.exists(data) else "it does not exist"
    raise InputError(f"{data}: expected {FORMS}, but {found}")


def _images_beside(data: Path) -> Path | None:
    return data / "images" if os.path.isdir(data / "images") else None


def _has_xml(folder: Path) -> bool:
    return os.path.isdir(folder) and next(folder.glob("*.xml"), None) is not None


def _each_once(data: Path, images: list[LabelledImage]) -> list[LabelledImage]:
    """Check that no image file is listed twice."""
    path, count = Counter(image.path for image in images).most_common(1)[0]
    if count > 1:
        raise InputError(f"{data}: expected each image once, but {path} is listed {count} times")
    return images


def _without_impossible(data: Path, images: list[LabelledImage]) -> list[LabelledImage]:
    """Leave out and count the boxes that no detector can find: without area, or a second time."""
    kept, empty, repeated = [], 0, 0
    for image in images:
        rows = np.column_stack([image.class_ids, image.boxes])
        has_area = (image.boxes[:, 2:] > 0).all(axis=1)
        _, first = np.unique(rows, axis=0, return_index=True)
        is_first = np.isin(np.arange(len(rows)), first)
        empty += int((~has_area).sum())
        repeated += int((has_area & ~is_first).sum())
        kept.append(_selected(image, has_area & is_first))
    if empty or repeated:
        logger.warning(
            "%s: left out %d boxes without area and %d that repeat another", data, empty, repeated
        )
    return kept


def _selected(image: LabelledImage, mask: npt.NDArray[np.bool_]) -> LabelledImage:
    if mask.all():
        return image
    return replace(
        image,
        class_ids=image.class_ids[mask],
        boxes=image.boxes[mask],
        areas=None if image.areas is None else image.areas[mask],
        optional=None if image.optional is None else image.optional[mask],
    )
