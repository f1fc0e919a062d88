"""Pictures with true boxes in the forms that people have them: COCO JSON, YOLO folders, Pascal VOC.

All become `LabelledPicture`s whose class ids are those of the model that is measured. COCO and VOC
name their classes, and so does a YOLO folder with a `data.yaml` or a `classes.txt`: the names are
matched with the model's labels. A YOLO folder without has the model's own ids.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from pipeline.errors import InputError
from pipeline.zoo.datasets.image_folders import (
    PICTURE_SUFFIXES,
    existing_folder,
    find_pictures,
    named_picture,
)
from pipeline.zoo.datasets.label_names import match_names
from pipeline.zoo.evaluation.detection import LabelledPicture, read_yolo_boxes

FORMS = "a COCO JSON file, a YOLO-format folder (images, labels) or a Pascal VOC folder"

_LARGEST_BOX = 10  # of the picture's longer side; beyond, a number is damaged

Side = Annotated[int, msgspec.Meta(ge=1)]
Corners = tuple[float, float, float, float]


def read_boxes(
    data: str | Path, labels: Sequence[str], images: str | Path | None = None
) -> list[LabelledPicture]:
    """The pictures of `data`, whichever form it has, with boxes of classes among `labels`.

    `images` is the folder of the pictures where they do not lie at the usual place of the form.

    Raises `InputError` where `data` has none of the forms, is damaged, or has a class that the
    model does not know.
    """
    data = Path(data)
    folder = None if images is None else existing_folder(images)
    if data.is_file() and data.suffix == ".json":
        return _each_once(data, _read_coco(data, labels, folder))
    if (data / "Annotations").is_dir() or next(data.glob("*.xml"), None):
        return _each_once(data, _read_voc(data, labels, folder))
    if (data / "labels").is_dir():
        return _read_yolo(data, labels, folder)
    found = "there is no such file" if not data.exists() else "it is none of them"
    raise InputError(f"{data}: expected {FORMS}, but {found}")


def _read_yolo(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    root = data / "images"
    names = _yolo_names(data)
    read = []
    for path in find_pictures(images or root):
        top = root if root in path.parents else images or root
        text = (data / "labels" / path.relative_to(top)).with_suffix(".txt")
        class_ids, boxes = read_yolo_boxes(text)
        count, whose = (len(names), "data set") if names else (len(labels), "model")
        if len(class_ids) and not 0 <= class_ids.min() <= class_ids.max() < count:
            wrong = class_ids.max() if class_ids.max() >= count else class_ids.min()
            raise InputError(
                f"{text}: expected classes 0 to {count - 1}, as the {whose} has {count} labels, "
                f"but got {wrong}"
            )
        read.append(LabelledPicture(path, class_ids, boxes))
    if not names:
        return read
    used = {names[class_id] for picture in read for class_id in picture.class_ids}
    classes = _match(names, used, labels, str(data))
    return [
        replace(picture, class_ids=np.array([classes[names[i]] for i in picture.class_ids], int))
        for picture in read
    ]


def _yolo_names(data: Path) -> list[str]:
    """What a YOLO folder calls its classes, by id; none where it does not say."""
    places = ("data.yaml", "data.yml", "classes.txt", "labels/classes.txt")
    path = next((data / place for place in places if (data / place).is_file()), None)
    if path is None:
        return []
    import yaml  # noqa: PLC0415 - only such a folder waits for the import

    try:
        text = path.read_text(encoding="utf-8-sig")
        is_list = path.suffix == ".txt"
        names = text.rstrip().splitlines() if is_list else yaml.safe_load(text)["names"]
        if not isinstance(names, (list, dict)):
            raise TypeError(f"but got {names}")
        listed = [names[i] for i in range(len(names))]  # a list, or a mapping from numbers
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected names, a list of the classes: {reason}") from error
    return [str(name).strip() for name in listed]


def _match(
    names: Sequence[str], used: Collection[str], labels: Sequence[str], subject: str
) -> dict[str, int]:
    """The class id of each name; those that no box uses need not be known.

    Some tools list a class that stands for the whole set, or all that there could be.
    """
    try:
        return dict(zip(names, match_names(names, labels, subject), strict=True))
    except InputError:
        some = [name for name in names if name in used]
        if not 0 < len(some) < len(names):
            raise
        return dict(zip(some, match_names(some, labels, subject), strict=True))


class _CocoImage(msgspec.Struct):
    id: int | str
    file_name: str
    width: Side
    height: Side


class _CocoBox(msgspec.Struct):
    image_id: int | str
    category_id: int | str
    bbox: Corners
    area: float | None = None
    iscrowd: bool | int = 0


class _CocoCategory(msgspec.Struct):
    id: int | str
    name: str


class _CocoFile(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoBox]
    categories: list[_CocoCategory]


def _read_coco(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    try:
        text = data.read_bytes().removeprefix(b"\xef\xbb\xbf")  # what some editors begin with
        content = msgspec.json.decode(text, type=_CocoFile)
    except (OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"{data}: expected COCO's JSON of images and boxes: {error}") from error
    if not content.images:
        raise InputError(f"{data}: expected pictures, but it lists none")
    categories = sorted(content.categories, key=lambda c: (isinstance(c.id, str), c.id))
    names = {category.id: category.name for category in categories}
    used = {names[box.category_id] for box in content.annotations if box.category_id in names}
    classes = _match(list(dict.fromkeys(names.values())), used, labels, str(data))
    boxes: dict[int | str, list[_CocoBox]] = {image.id: [] for image in content.images}
    for box in content.annotations:
        if box.image_id not in boxes or box.category_id not in names:
            raise InputError(
                f"{data}: expected boxes of listed pictures and categories, but one is of picture "
                f"{box.image_id} and category {box.category_id}"
            )
        boxes[box.image_id].append(box)
    folder = images or _coco_images(data, content.images[0].file_name)
    return [
        _labelled(
            str(data),
            named_picture(folder, image.file_name),
            (image.width, image.height),
            [
                _Truth(classes[names[box.category_id]], box.bbox, bool(box.iscrowd), box.area)
                for box in boxes[image.id]
            ],
        )
        for image in content.images
    ]


def _coco_images(data: Path, first: str) -> Path:
    """The folder that has the first picture, of those where COCO's users keep them."""
    split = data.stem.rpartition("_")[2]
    candidates = [data.parent / "images", data.parent]
    candidates += [data.parent.parent / part for part in (split, f"images/{split}", "images")]
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    raise InputError(
        f"{data}: its picture {first} is not beside it; name their folder with --images"
    )


class _Truth(NamedTuple):
    """One box: x, y of its corner, width and height in pixels."""

    class_id: int
    box: Corners
    is_optional: bool
    area: float | None = None


def _labelled(
    subject: str, path: Path, size: tuple[int, int], truths: list[_Truth]
) -> LabelledPicture:
    for truth in truths:
        if not _touches(truth.box, size):
            box = ", ".join(f"{value:g}" for value in truth.box)
            raise InputError(
                f"{subject}: {path.name}: expected boxes in its {size[0]} x {size[1]} pixels, but "
                f"one has x, y, width, height {box}"
            )
    scale = np.array([size[0], size[1]] * 2, np.float64)
    corners = np.array([truth.box for truth in truths], np.float64).reshape(-1, 4) / scale
    corners[:, :2] += corners[:, 2:] / 2
    whole = size[0] * size[1]
    areas = [t.area if t.area and 0 < t.area <= whole else t.box[2] * t.box[3] for t in truths]
    return LabelledPicture(
        path,
        np.array([truth.class_id for truth in truths], np.int64),
        corners,
        np.array(areas, np.float64) / whole,
        np.array([truth.is_optional for truth in truths], np.bool_),
        size,
    )


def _touches(box: Corners, size: tuple[int, int]) -> bool:
    """Whether some of a box lies in the picture; objects at its edge may reach beyond."""
    x, y, width, height = box
    most = _LARGEST_BOX * max(size)
    if not (math.isfinite(x + y) and 0 <= width <= most and 0 <= height <= most):
        return False
    return x <= size[0] and y <= size[1] and x + width >= 0 and y + height >= 0


def _each_once(data: Path, pictures: list[LabelledPicture]) -> list[LabelledPicture]:
    """The pictures, where no two entries are for the same file: only one of them could count."""
    path, count = Counter(picture.path for picture in pictures).most_common(1)[0]
    if count > 1:
        raise InputError(f"{data}: expected each picture once, but {path} is listed {count} times")
    return pictures


def _read_voc(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    folder = data / "Annotations" if (data / "Annotations").is_dir() else data
    if images is None:
        images = data / "JPEGImages" if (data / "JPEGImages").is_dir() else data
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise InputError(f"{folder}: expected Pascal VOC's .xml files, found none")
    read = [_read_voc_file(path) for path in files]
    names = sorted({name for picture in read for name in picture.names})
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return [
        _labelled(
            str(path),
            _voc_picture(images, picture.file_name, path.stem),
            picture.size,
            [
                _Truth(classes[name], box, is_difficult)
                for name, box, is_difficult in zip(
                    picture.names, picture.boxes, picture.difficult, strict=True
                )
            ],
        )
        for path, picture in zip(files, read, strict=True)
    ]


def _voc_picture(images: Path, name: str, stem: str) -> Path:
    """The picture that a file calls so; where there is none, the one called as the file is."""
    path = named_picture(images, name)
    namesakes = (images / f"{stem}{suffix}" for suffix in PICTURE_SUFFIXES)
    return path if path.is_file() else next((p for p in namesakes if p.is_file()), path)


class _VocPicture(NamedTuple):
    file_name: str
    size: tuple[int, int]
    names: list[str]
    boxes: list[Corners]
    difficult: list[bool]


def _read_voc_file(path: Path) -> _VocPicture:
    """One annotation file; VOC counts pixels from 1, and both edges belong to the box."""
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise InputError(f"{path}: expected Pascal VOC's XML, which declares no entities")
        root = ET.fromstring(data)  # noqa: S314 - without entities there is nothing to expand
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        if min(size) < 1:
            raise ValueError(f"the size is {size[0]} x {size[1]}")
        objects = root.findall("object")
        boxes = []
        for element in objects:
            x1, y1, x2, y2 = (
                float(_text(element, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes.append((x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1))
        return _VocPicture(
            _text(root, "filename"),
            size,
            [_text(element, "name") for element in objects],
            boxes,
            [element.findtext("difficult", "0").strip() == "1" for element in objects],
        )
    except (OSError, ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: expected Pascal VOC's XML of one picture: {error}") from error


def _text(element: ET.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"<{key}> is missing")
    return text
