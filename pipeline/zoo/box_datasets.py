"""Pictures with true boxes in the forms that people have them: COCO JSON, YOLO folders, Pascal VOC.

All become `LabelledPicture`s whose class ids are those of the model that is measured. COCO and VOC
name their classes, and the names are matched with the model's labels; YOLO has the ids themselves.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from pipeline.errors import InputError
from pipeline.zoo.coco import LabelledPicture, read_yolo_boxes
from pipeline.zoo.label_names import match_names
from pipeline.zoo.pictures import existing_folder, find_pictures

FORMS = "a COCO JSON file, a YOLO-format folder (images, labels) or a Pascal VOC folder"

logger = logging.getLogger(__name__)

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
        return _read_coco(data, labels, folder)
    if (data / "Annotations").is_dir() or next(data.glob("*.xml"), None):
        return _read_voc(data, labels, folder)
    if (data / "labels").is_dir():
        return _read_yolo(data, labels, folder)
    found = "there is no such file" if not data.exists() else "it is none of them"
    raise InputError(f"{data}: expected {FORMS}, but {found}")


def _read_yolo(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    root = data / "images"
    pictures = []
    for path in find_pictures(images or root):
        top = root if root in path.parents else images or root
        text = (data / "labels" / path.relative_to(top)).with_suffix(".txt")
        class_ids, boxes = read_yolo_boxes(text)
        if len(class_ids) and not 0 <= class_ids.min() <= class_ids.max() < len(labels):
            wrong = class_ids.max() if class_ids.max() >= len(labels) else class_ids.min()
            raise InputError(
                f"{text}: expected classes 0 to {len(labels) - 1}, as the model has "
                f"{len(labels)} labels, but got {wrong}"
            )
        pictures.append(LabelledPicture(path, class_ids, boxes))
    return pictures


class _CocoImage(msgspec.Struct):
    id: int
    file_name: str
    width: Side
    height: Side


class _CocoBox(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: Corners
    area: float | None = None
    iscrowd: int = 0


class _CocoCategory(msgspec.Struct):
    id: int
    name: str


class _CocoFile(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoBox]
    categories: list[_CocoCategory]


def _read_coco(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    try:
        content = msgspec.json.decode(data.read_bytes(), type=_CocoFile)
    except (OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"{data}: expected COCO's JSON of images and boxes: {error}") from error
    if not content.images:
        raise InputError(f"{data}: expected pictures, but it lists none")
    categories = sorted(content.categories, key=lambda category: category.id)
    names = [category.name for category in categories]
    ids = [category.id for category in categories]
    classes = dict(zip(ids, match_names(names, labels, str(data)), strict=True))
    boxes: dict[int, list[_CocoBox]] = {image.id: [] for image in content.images}
    for box in content.annotations:
        if box.image_id not in boxes or box.category_id not in classes:
            raise InputError(
                f"{data}: expected boxes of listed pictures and categories, but one is of picture "
                f"{box.image_id} and category {box.category_id}"
            )
        boxes[box.image_id].append(box)
    folder = images or _coco_images(data, content.images[0].file_name)
    return [
        _labelled(
            folder / image.file_name,
            (image.width, image.height),
            [
                _Truth(classes[box.category_id], box.bbox, bool(box.iscrowd), box.area)
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


def _labelled(path: Path, size: tuple[int, int], truths: list[_Truth]) -> LabelledPicture:
    scale = np.array([size[0], size[1]] * 2, np.float64)
    corners = np.array([truth.box for truth in truths], np.float64).reshape(-1, 4) / scale
    corners[:, :2] += corners[:, 2:] / 2
    areas = [t.box[2] * t.box[3] if t.area is None else t.area for t in truths]
    return LabelledPicture(
        path,
        np.array([truth.class_id for truth in truths], np.int64),
        corners,
        np.array(areas, np.float64) / (size[0] * size[1]),
        np.array([truth.is_optional for truth in truths], np.bool_),
    )


def _read_voc(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledPicture]:
    folder = data / "Annotations" if (data / "Annotations").is_dir() else data
    if images is None:
        images = data / "JPEGImages" if (data / "JPEGImages").is_dir() else data
    read = [_read_voc_file(path) for path in sorted(folder.glob("*.xml"))]
    if not read:
        raise InputError(f"{folder}: expected Pascal VOC's .xml files, found none")
    names = sorted({name for picture in read for name in picture.names})
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return [
        _labelled(
            images / picture.file_name,
            picture.size,
            [
                _Truth(classes[name], box, is_difficult)
                for name, box, is_difficult in zip(
                    picture.names, picture.boxes, picture.difficult, strict=True
                )
            ],
        )
        for picture in read
    ]


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
            Path(_text(root, "filename")).name,
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
