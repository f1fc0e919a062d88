"""Reader of images with true boxes: COCO JSON, Pascal VOC and YOLO folders.

The class ids are those of the measured model. COCO and VOC name their classes, and so does a YOLO
folder with a `data.yaml` or a `classes.txt`: the names are matched with the model's labels. Any
other YOLO folder uses the model's ids.

A YOLO folder holds `images/NAME.jpg` and `labels/NAME.txt` with one box per line: class, centre x,
centre y, width, height, the last four as fractions of the image. An image without a text file has
no boxes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, one_line
from pipeline.settings.setting import shown
from pipeline.text.files import LIST_LIMIT, TEXT_LIMIT, read_text
from pipeline.text.formats import parse_yaml
from pipeline.zoo import Report, no_report
from pipeline.zoo.datasets.annotations import LabelledImage, read_coco, read_voc
from pipeline.zoo.datasets.classes import match_used_names
from pipeline.zoo.datasets.image_folders import existing_folder, find_images, list_images
from pipeline.zoo.datasets.progress import reported

FORMS = "a COCO JSON file, a YOLO-format folder (images, labels) or a Pascal VOC folder"

_LARGEST_CLASS = 2**31


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
    if os.path.isfile(data) and data.suffix == ".json":
        return _each_once(data, read_coco(data, labels, folder, report))
    if os.path.isdir(data / "Annotations") or _has_xml(data):
        return _each_once(data, read_voc(data, labels, folder, report))
    if os.path.isdir(data / "labels"):
        return _read_yolo(data, labels, folder, report)
    found = "it is none of them" if os.path.exists(data) else "it does not exist"
    raise InputError(f"{data}: expected {FORMS}, but {found}")


def _has_xml(folder: Path) -> bool:
    return os.path.isdir(folder) and next(folder.glob("*.xml"), None) is not None


def _each_once(data: Path, images: list[LabelledImage]) -> list[LabelledImage]:
    """Check that no image file is listed twice."""
    path, count = Counter(image.path for image in images).most_common(1)[0]
    if count > 1:
        raise InputError(f"{data}: expected each image once, but {path} is listed {count} times")
    return images


def read_yolo_folder(folder: str | Path) -> list[LabelledImage]:
    """Read the images of a YOLO folder with their boxes, without matching of classes.

    Raises `InputError` if the folder has another layout or a line is not a box.
    """
    folder = Path(folder)
    return [
        LabelledImage(path, *_read_yolo_boxes(folder / "labels" / f"{path.stem}.txt"))
        for path in list_images(folder / "images")
    ]


def _read_yolo(
    data: Path, labels: Sequence[str], images: Path | None, report: Report
) -> list[LabelledImage]:
    root = data / "images"
    names = _yolo_names(data)
    read = []
    for path in reported(find_images(images or root), "reading boxes", report):
        top = root if root in path.parents else images or root
        text = (data / "labels" / path.relative_to(top)).with_suffix(".txt")
        class_ids, boxes = _read_yolo_boxes(text)
        count, owner = (len(names), "data set") if names else (len(labels), "model")
        if len(class_ids) and not 0 <= class_ids.min() <= class_ids.max() < count:
            wrong = class_ids.max() if class_ids.max() >= count else class_ids.min()
            raise InputError(
                f"{text}: expected classes 0 to {count - 1}, as the {owner} has {count} labels, "
                f"but got {wrong}"
            )
        read.append(LabelledImage(path, class_ids, boxes))
    if not names:
        return read
    used = {names[class_id] for image in read for class_id in image.class_ids}
    classes = match_used_names(names, used, labels, str(data))
    return [
        replace(image, class_ids=np.array([classes[names[i]] for i in image.class_ids], int))
        for image in read
    ]


def _yolo_names(data: Path) -> list[str]:
    """Return the class names of a YOLO folder by id; none if it has no list of names."""
    places = ("data.yaml", "data.yml", "classes.txt", "labels/classes.txt")
    path = next((data / place for place in places if os.path.isfile(data / place)), None)
    if path is None:
        return []
    is_list = path.suffix == ".txt"
    subject = f"{path}: expected names, a list of the classes"
    text = read_text(path, LIST_LIMIT if is_list else TEXT_LIMIT, subject=subject)
    content = {"names": text.rstrip().splitlines()} if is_list else parse_yaml(text, subject)[0]
    try:
        names = content["names"]
        if not isinstance(names, (list, dict)):
            raise TypeError(f"but got {shown(names)}")
        listed = [names[i] for i in range(len(names))]  # a list, or a mapping from numbers
    except (TypeError, KeyError) as error:
        reason = one_line(error)
        raise InputError(f"{path}: expected names, a list of the classes: {reason}") from error
    return [str(name).strip() for name in listed]


def _read_yolo_boxes(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Read class ids (n,) and boxes (n, 4) of one text file; a missing file has none."""
    rows: list[list[float]] = []
    text = read_text(path, LIST_LIMIT) if os.path.lexists(path) else ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *box = (float(field) for field in line.split())
        except ValueError:
            box = []
        if len(box) != 4 or not _is_class(class_id) or not _is_box(*box):
            raise InputError(
                f"{path}: line {number}: expected class, x, y, width, height, the last four as "
                f"fractions of the image, but got '{line[:80]}'"
            )
        rows.append([class_id, *box])
    table = np.array(rows, np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:]


def _is_class(value: float) -> bool:
    return value.is_integer() and abs(value) < _LARGEST_CLASS


def _is_box(x: float, y: float, width: float, height: float) -> bool:
    """Return whether all values are fractions; boxes may extend a little beyond the edge."""
    return all(-0.1 <= value <= 1.1 for value in (x, y, width, height)) and min(width, height) >= 0
