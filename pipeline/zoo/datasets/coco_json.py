"""Reader of COCO's JSON format of images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.errors import InputError
from pipeline.zoo.datasets.image_folders import named_image
from pipeline.zoo.datasets.label_names import match_used_names
from pipeline.zoo.datasets.labelled_image import Corners, LabelledImage, TrueBox, labelled_image

_Side = Annotated[int, msgspec.Meta(ge=1)]


class _CocoImage(msgspec.Struct):
    id: int | str
    file_name: str
    width: _Side
    height: _Side


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


def read_coco(data: Path, labels: Sequence[str], images: Path | None) -> list[LabelledImage]:
    """Read a COCO JSON file; see `read_boxes`."""
    try:
        text = data.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the byte order mark
        content = msgspec.json.decode(text, type=_CocoFile)
    except (OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"{data}: expected COCO's JSON of images and boxes: {error}") from error
    if not content.images:
        raise InputError(f"{data}: expected images, but it lists none")
    categories = sorted(content.categories, key=lambda c: (isinstance(c.id, str), c.id))
    names = {category.id: category.name for category in categories}
    used = {names[box.category_id] for box in content.annotations if box.category_id in names}
    classes = match_used_names(list(dict.fromkeys(names.values())), used, labels, str(data))
    truths: dict[int | str, list[TrueBox]] = {image.id: [] for image in content.images}
    for box in content.annotations:
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
        for image in content.images
    ]


def _image_folder(data: Path, first: str) -> Path:
    """Return the first of the usual image folders that has the first image."""
    split = data.stem.rpartition("_")[2]
    candidates = [data.parent / "images", data.parent]
    candidates += [data.parent.parent / part for part in (split, f"images/{split}", "images")]
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    raise InputError(f"{data}: image {first} not found; name the images' folder with --images")
