"""Reader of Pascal VOC's XML format of images and boxes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.zoo.datasets.image_folders import named_image
from pipeline.zoo.datasets.label_names import match_names
from pipeline.zoo.datasets.labelled_image import Corners, LabelledImage, TrueBox, labelled_image


class _VocImage(NamedTuple):
    file_name: str
    size: tuple[int, int]
    objects: list[tuple[str, Corners, bool]]


def read_voc(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledImage]:
    """Read a Pascal VOC folder; see `read_boxes`."""
    folder = data / "Annotations" if (data / "Annotations").is_dir() else data
    if images is None:
        images = data / "JPEGImages" if (data / "JPEGImages").is_dir() else data
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise InputError(f"{folder}: expected Pascal VOC's .xml files, found none")
    read = [_read_file(path) for path in files]
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
    return path if path.is_file() else next((p for p in namesakes if p.is_file()), path)


def _read_file(path: Path) -> _VocImage:
    """Read one XML file; VOC counts pixels from 1, and both edges are part of the box."""
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise InputError(f"{path}: expected Pascal VOC's XML, which declares no entities")
        root = ET.fromstring(data)  # noqa: S314 - safe without entities
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        if min(size) < 1:
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
    except (OSError, ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: expected Pascal VOC's XML of one image: {error}") from error


def _text(element: ET.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"<{key}> is missing")
    return text
