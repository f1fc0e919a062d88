"""Images from archives and folders, and the crops that the classifier is trained and tested on.

Random crops use a generator that the caller seeds, so the same files always give the same crops.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.images import decode_image, is_image, read_image
from pipeline.inference.classifier import crop_into
from pipeline.types import Image
from recipes.mobilenet_v2 import INPUT_SIZE

_TEST_SIDE = 256
_SMALLEST_BOX = 24  # pixels; smaller objects are not recognisable
_MAX_ASPECT = 4 / 3


def read_images(source: Path) -> Iterator[tuple[str, Image]]:
    """Yield names and pixels of all images in a tar archive or under a folder, sorted by name.

    Raises `InputError` if `source` is neither, and `FrameError` if it holds a damaged image.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if is_image(path):
                yield path.relative_to(source).as_posix(), read_image(path)
        return
    try:
        archive = tarfile.open(source)  # noqa: SIM115  (closed below; a folder needs none)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{source}: expected a folder or a tar archive: {error}") from error
    with archive:
        members = {
            member.name: member
            for member in archive
            if member.isfile() and is_image(Path(member.name))
        }
        for name in sorted(members):
            file = archive.extractfile(members[name])
            data = file.read() if file is not None else b""
            yield name, decode_image(data, f"{source}: {name}")


def imagenet_crop(image: Image) -> Image:
    """Return the crop of ImageNet's test: shorter side to 256 pixels, then the central 224."""
    height, width = image.shape[:2]
    scale = _TEST_SIDE / min(height, width)
    image = _resize(image, round(width * scale), round(height * scale))
    top, left = (image.shape[0] - INPUT_SIZE) // 2, (image.shape[1] - INPUT_SIZE) // 2
    return image[top : top + INPUT_SIZE, left : left + INPUT_SIZE]


def whole_image(image: Image) -> Image:
    """Return the whole image, stretched to the network's input."""
    return _resize(image, INPUT_SIZE, INPUT_SIZE)


def random_crop(image: Image, rng: np.random.Generator, share: tuple[float, float]) -> Image:
    """Return a random part of the image, stretched and mirrored at random (as for Inception).

    Its share of the area is between the two given ones, its aspect ratio from 3:4 to 4:3.
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
    """Yield crops of objects as the pipeline makes them, `times` per box with random offsets.

    `boxes` (n, 4) are centre x, centre y, width and height in fractions of the image; boxes under
    24 pixels are left out.
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
