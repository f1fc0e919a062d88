"""Readers of images with true boxes, in COCO's JSON and in Pascal VOC's XML."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.images import IMAGE_SUFFIXES, MAX_PIXELS
from pipeline.text.files import TEXT_LIMIT, read_bytes
from pipeline.zoo import Report, no_report
from pipeline.zoo.datasets.classes import match_names, match_used_names
from pipeline.zoo.datasets.image_folders import named_image
from pipeline.zoo.datasets.progress import reported

_COCO_LIMIT = 2 * 2**30
_LARGE_FILE = 16 * 2**20
_LARGEST_BOX = 10  # of the image's longer side; a larger number is damaged

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelledImage:
    """An image file with its true boxes: `class_ids` (n,) and `boxes` (n, 4) in fractions.

    A box is centre x, centre y, width, height. `areas` (n,) are fractions of the image, for data
    sets with outlines of objects; None uses the boxes' areas. `optional` (n,) marks boxes whose
    detection is neither required nor wrong: crowds and difficult objects. `size` is the width and
    height of the image in pixels if the labels contain it.
    """

    path: Path
    class_ids: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64] | None = None
    optional: npt.NDArray[np.bool_] | None = None
    size: tuple[int, int] | None = None


class TrueBox(NamedTuple):
    """One box in pixels: x and y of its corner, width and height."""

    class_id: int
    box: Corners
    is_optional: bool
    area: float | None = None


def labelled_image(
    subject: str, path: Path, size: tuple[int, int], truths: list[TrueBox]
) -> LabelledImage:
    """Return an image with boxes in pixels. Raises `InputError` if a box is outside the image."""
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
    return LabelledImage(
        path,
        np.array([truth.class_id for truth in truths], np.int64),
        corners,
        np.array(areas, np.float64) / whole,
        np.array([truth.is_optional for truth in truths], np.bool_),
        size,
    )


def _touches(box: Corners, size: tuple[int, int]) -> bool:
    """Return whether a box overlaps the image; objects at its edge may extend beyond it."""
    x, y, width, height = box
    most = _LARGEST_BOX * max(size)
    if not (math.isfinite(x + y) and 0 <= width <= most and 0 <= height <= most):
        return False
    return x <= size[0] and y <= size[1] and x + width >= 0 and y + height >= 0


_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)]


class _CocoImage(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: _Side
    height: _Side


class _CocoBox(msgspec.Struct, gc=False):
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


def read_coco(
    data: Path, labels: Sequence[str], images: Path | None, report: Report = no_report
) -> list[LabelledImage]:
    """Read a COCO JSON file; see `read_boxes`."""
    text = read_bytes(data, _COCO_LIMIT)
    is_large = len(text) > _LARGE_FILE
    if is_large:
        report(f"reading {data.name}", 0, 1)
    try:
        content = msgspec.json.decode(text.removeprefix(BOM_UTF8), type=_CocoFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{data}: expected COCO's JSON of images and boxes: {error}") from error
    if is_large:
        report(f"reading {data.name}", 1, 1)
    if not content.images:
        raise InputError(f"{data}: expected images, but it lists none")
    categories = sorted(content.categories, key=lambda c: (isinstance(c.id, str), c.id))
    names = {category.id: category.name for category in categories}
    used = {names[box.category_id] for box in content.annotations if box.category_id in names}
    classes = match_used_names(list(dict.fromkeys(names.values())), used, labels, str(data))
    truths: dict[int | str, list[TrueBox]] = {image.id: [] for image in content.images}
    for box in reported(content.annotations, "reading boxes", report):
        if box.image_id not in truths or box.category_id not in names:
            raise InputError(
                f"{data}: expected boxes of listed images and categories, but one is of image "
                f"{box.image_id} and category {box.category_id}"
            )
        class_id = classes[names[box.category_id]]
        truths[box.image_id].append(TrueBox(class_id, box.bbox, bool(box.iscrowd), box.area))
    folder = images or _image_folder(data, content.images[0].file_name)
    return [
        labelled_image(
            str(data),
            named_image(folder, image.file_name),
            (image.width, image.height),
            truths[image.id],
        )
        for image in reported(content.images, "reading images", report)
    ]


def _image_folder(data: Path, first: str) -> Path:
    """Return the first of the usual image folders that has the first image."""
    split = data.stem.rpartition("_")[2]
    candidates = [data.parent / "images", data.parent]
    candidates += [data.parent.parent / part for part in (split, f"images/{split}", "images")]
    for folder in candidates:
        if os.path.isfile(folder / first):
            return folder
    raise InputError(f"{data}: image {first} not found; name the images' folder with --images")


class _VocImage(NamedTuple):
    file_name: str
    size: tuple[int, int]
    objects: list[tuple[str, Corners, bool]]


def read_voc(
    data: Path, labels: Sequence[str], images: Path | None, report: Report = no_report
) -> list[LabelledImage]:
    """Read a Pascal VOC folder; see `read_boxes`."""
    folder = data / "Annotations" if os.path.isdir(data / "Annotations") else data
    if images is None:
        images = data / "JPEGImages" if os.path.isdir(data / "JPEGImages") else data
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise InputError(f"{folder}: expected Pascal VOC's .xml files, found none")
    read = [_read_file(path) for path in reported(files, "reading boxes", report)]
    names = sorted({name for image in read for name, _, _ in image.objects})
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return [
        labelled_image(
            str(path),
            _image_path(images, image.file_name, path.stem),
            image.size,
            [
                TrueBox(classes[name], box, is_difficult)
                for name, box, is_difficult in image.objects
            ],
        )
        for path, image in zip(files, read, strict=True)
    ]


def _image_path(images: Path, name: str, stem: str) -> Path:
    """Return the image with the name in the XML file, or else with the name of the XML file."""
    path = named_image(images, name)
    namesakes = (images / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES)
    return path if os.path.isfile(path) else next(filter(os.path.isfile, namesakes), path)


def _read_file(path: Path) -> _VocImage:
    """Read one XML file; VOC counts pixels from 1, and both edges are part of the box."""
    data = read_bytes(path, TEXT_LIMIT)
    try:
        # A null byte means UTF-16, in which the declarations would look different.
        if any(mark in data for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0")):
            raise InputError(f"{path}: expected Pascal VOC's XML, which declares no entities")
        root = ET.fromstring(data)  # noqa: S314 - safe without entities
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        if not 1 <= min(size) <= max(size) <= MAX_PIXELS:
            raise ValueError(f"the size is {size[0]} x {size[1]}")
        objects = []
        for element in root.findall("object"):
            x1, y1, x2, y2 = (
                float(_text(element, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
            is_difficult = element.findtext("difficult", "0").strip() == "1"
            objects.append((_text(element, "name"), box, is_difficult))
        return _VocImage(_text(root, "filename"), size, objects)
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: expected Pascal VOC's XML of one image: {error}") from error


def _text(element: ET.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"<{key}> is missing")
    return text
