"""Reader of images with true boxes in the YOLO format, in the layouts that tools write.

An image `NAME.jpg` has a text file `NAME.txt` with one box per line: class, centre x, centre y,
width, height, the last four as fractions of the image. The text file is in `labels/`, where the
image is in `images/`, or beside the image (LabelImg, CVAT). An image without one has no boxes.

The names of the classes come from a YAML file (`data.yaml` and the like), `classes.txt` or
`obj.names`, in the folder or one folder up. A YAML file in the folder also names the part that is
measured, `val`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, one_line
from pipeline.settings.setting import shown
from pipeline.text.files import LIST_LIMIT, TEXT_LIMIT, read_text
from pipeline.text.formats import parse_yaml
from pipeline.zoo import Report, no_report
from pipeline.zoo.datasets.annotations import LabelledImage
from pipeline.zoo.datasets.classes import match_used_names
from pipeline.zoo.datasets.image_folders import find_images, list_images
from pipeline.zoo.datasets.progress import reported

logger = logging.getLogger(__name__)

YAML = (".yaml", ".yml")
_LARGEST_CLASS = 2**31
_SPLITS = ("train", "val", "valid", "test")
_LISTS = ("classes.txt", "labels/classes.txt", "*.names")


class Description(NamedTuple):
    """What a data set says of itself: its class names by id, and the folder of the part `val`."""

    path: Path | None = None
    names: list[str] | None = None
    val: Path | None = None


def is_yolo(data: Path) -> bool:
    """Whether a path is a YOLO data set: its YAML file, or a folder with text files of boxes."""
    if data.suffix in YAML:
        return os.path.isfile(data)
    return os.path.isdir(data) and (
        os.path.isdir(data / "labels") or describe(data).path is not None
    )


def read_yolo(
    data: Path, labels: Sequence[str], images: Path | None, report: Report = no_report
) -> list[LabelledImage]:
    """Read a YOLO data set with the class ids of a model; see `boxes.read_boxes`."""
    folder = data.parent if data.suffix in YAML else data
    about = describe(data)
    top = images or about.val or (folder / "images")
    root = top if os.path.isdir(top) else folder
    names = about.names
    count, owner = (len(labels), "model") if names is None else (len(names), "data set")
    read = []
    for path in reported(find_images(root), "reading boxes", report):
        text = _text_of(path, root, folder)
        class_ids, boxes = _read_boxes(text)
        _check_classes(text, class_ids, count, owner)
        read.append(LabelledImage(path, class_ids, boxes))
    if names is None:
        logger.info("%s: has no class names; its class numbers are the model's", data)
        return read
    logger.info("%s: classes are matched by the names in %s", data, about.path)
    used = {names[class_id] for image in read for class_id in image.class_ids}
    classes = match_used_names(names, used, labels, str(data))
    return [
        replace(image, class_ids=np.array([classes[names[i]] for i in image.class_ids], int))
        for image in read
    ]


def read_yolo_folder(folder: str | Path) -> list[LabelledImage]:
    """Read the images of a YOLO folder with their boxes, without matching of classes.

    Raises `InputError` if the folder has another layout or a line is not a box.
    """
    folder = Path(folder)
    return [
        LabelledImage(path, *_read_boxes(folder / "labels" / f"{path.stem}.txt"))
        for path in list_images(folder / "images")
    ]


def describe(data: Path) -> Description:
    """Find the names of the classes, and `val` if the file with them is in the folder itself.

    Raises `InputError` if a file that is called data.yaml has no names.
    """
    if data.suffix in YAML:
        return _from_yaml(data, data.parent, is_certain=True)
    for folder in (data, Path(os.path.abspath(data)).parent):
        for path in _candidates(folder):
            if path.suffix in YAML:
                is_certain = folder == data and path.stem == "data"
                found = _from_yaml(path, folder, is_certain=is_certain)
            else:
                found = Description(path, read_text(path, LIST_LIMIT).rstrip().splitlines())
            if found.names is not None:
                return found if folder == data else found._replace(val=None)
    return Description()


def _candidates(folder: Path) -> Iterator[Path]:
    for pattern in ("data.y*ml", "dataset.y*ml", "*.y*ml", *_LISTS):
        for path in sorted(folder.glob(pattern)):
            if os.path.isfile(path):
                yield path


def _from_yaml(path: Path, folder: Path, *, is_certain: bool) -> Description:
    """The names in a YAML file; of a file that may be of another tool, only if it has splits."""
    subject = f"{path}: expected names, a list of the classes"
    content: Any = parse_yaml(read_text(path, TEXT_LIMIT, subject=subject), subject).content
    is_description = isinstance(content, dict) and any(split in content for split in _SPLITS)
    if not is_certain and not (is_description and "names" in content):
        return Description()
    try:
        names = content["names"]
        if not isinstance(names, (list, dict)):
            raise TypeError(f"but got {shown(names)}")
        listed = [names[i] for i in range(len(names))]  # a list, or a mapping from numbers
    except (TypeError, KeyError) as error:
        raise InputError(f"{subject}: {one_line(error)}") from error
    return Description(path, [str(name).strip() for name in listed], _val_of(content, folder))


def _val_of(content: dict[str, Any], folder: Path) -> Path | None:
    """The folder of `val`, relative to `path` or to the file; Roboflow writes a `..` too many."""
    val, root = content.get("val"), content.get("path")
    if not isinstance(val, str):
        return None
    start = folder / root if isinstance(root, str) else folder
    places = (start / val, folder / val, folder / val.removeprefix("../"))
    return next((place for place in places if os.path.isdir(place)), None)


def _text_of(image: Path, root: Path, folder: Path) -> Path:
    """The text file of an image: in `labels/` where the image is in `images/`, or beside it."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        parts[place] = "labels"
        mirrored = Path(*parts).with_suffix(".txt")
        if os.path.lexists(mirrored) or not os.path.lexists(beside):
            return mirrored
    in_labels = (folder / "labels" / image.relative_to(root)).with_suffix(".txt")
    return in_labels if os.path.lexists(in_labels) else beside


def _check_classes(text: Path, ids: npt.NDArray[np.int64], count: int, owner: str) -> None:
    if len(ids) and not 0 <= ids.min() <= ids.max() < count:
        wrong = ids.max() if ids.max() >= count else ids.min()
        raise InputError(
            f"{text}: expected classes 0 to {count - 1}, as the {owner} has {count} labels, "
            f"but got {wrong}"
        )


def _read_boxes(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
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
