"""Pictures out of archives and folders, and the crops that a classifier is trained and tested on.

Every random choice comes from a generator seeded by the caller and the picture's place in its
archive, so that the same files always give the same crops.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.inference.classifier import crop_into
from pipeline.types import Image
from pipeline.zoo.datasets.image_folders import PICTURE_SUFFIXES, read_picture
from recipes.mobilenet_v2 import INPUT_SIZE

_TEST_SIDE = 256
_SMALLEST_BOX = 24  # pixels; of a smaller one not even a person could name what it shows
_MAX_ASPECT = 4 / 3


def read_pictures(source: Path) -> Iterator[tuple[str, Image]]:
    """Names and pixels of all pictures in a tar archive or under a folder, sorted by name.

    Raises `InputError` where `source` is missing, is no archive, or holds a damaged picture.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                yield path.relative_to(source).as_posix(), read_picture(path)
        return
    try:
        archive = tarfile.open(source)  # noqa: SIM115  (closed below; a folder needs none)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{source}: expected a folder or a tar archive: {error}") from error
    with archive:
        members = {
            member.name: member
            for member in archive
            if member.isfile() and Path(member.name).suffix.lower() in PICTURE_SUFFIXES
        }
        for name in sorted(members):
            file = archive.extractfile(members[name])
            data = file.read() if file is not None else b""
            yield name, _decode(data, f"{source}: {name}")


def _decode(data: bytes, subject: str) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise InputError(f"{subject}: expected a picture, but it cannot be decoded")
    return np.asarray(image, np.uint8)


def central_crop(image: Image) -> Image:
    """The crop that ImageNet is tested on: shorter side to 256 pixels, then the central 224."""
    height, width = image.shape[:2]
    scale = _TEST_SIDE / min(height, width)
    image = _resize(image, round(width * scale), round(height * scale))
    top, left = (image.shape[0] - INPUT_SIZE) // 2, (image.shape[1] - INPUT_SIZE) // 2
    return image[top : top + INPUT_SIZE, left : left + INPUT_SIZE]


def whole_picture(image: Image) -> Image:
    """All of the picture, stretched to the network's input."""
    return _resize(image, INPUT_SIZE, INPUT_SIZE)


def random_crop(image: Image, rng: np.random.Generator, share: tuple[float, float]) -> Image:
    """A part of the picture, stretched and mirrored at random (Inception-style augmentation).

    Its share of the area lies between the two given ones, its aspect ratio from 3:4 to 4:3.
    """
    height, width = image.shape[:2]
    area = height * width * rng.uniform(*share)
    aspect = np.exp(rng.uniform(-np.log(_MAX_ASPECT), np.log(_MAX_ASPECT)))
    crop_width = int(np.clip(round(np.sqrt(area * aspect)), 1, width))
    crop_height = int(np.clip(round(np.sqrt(area / aspect)), 1, height))
    top = int(rng.integers(0, height - crop_height + 1))
    left = int(rng.integers(0, width - crop_width + 1))
    crop = image[top : top + crop_height, left : left + crop_width]
    return _mirror_at_random(_resize(crop, INPUT_SIZE, INPUT_SIZE), rng)


def box_crops(
    image: Image, boxes: npt.NDArray[np.float64], times: int, rng: np.random.Generator
) -> Iterator[Image]:
    """Crops of objects as the running pipeline takes them, `times` for each box, a little apart.

    `boxes` (n, 4) are centre x, centre y, width and height in fractions of the picture; those
    under 24 pixels are left out.
    """
    height, width = image.shape[:2]
    size = np.array([width, height, width, height])
    for box in boxes * size:
        if min(box[2:]) < _SMALLEST_BOX:
            continue
        for _ in range(times):
            moved = box[:2] + rng.uniform(-0.1, 0.1, 2) * box[2:]
            half = box[2:] * rng.uniform(0.45, 0.65)
            corners = np.concatenate([moved - half, moved + half]).astype(np.float32)
            crop = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
            crop_into(image, corners, crop)
            yield _mirror_at_random(crop, rng)


def _mirror_at_random(image: Image, rng: np.random.Generator) -> Image:
    return image[:, ::-1] if rng.random() < 0.5 else image


def _resize(image: Image, width: int, height: int) -> Image:
    shrinks = width < image.shape[1] and height < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
