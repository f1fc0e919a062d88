"""The sample photographs, taken from the scikit-image wheel, where they lie as PNG files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import InputError, OutputError

WHEEL = "scikit-image==0.25.2"
MEMBERS = {
    "astronaut.jpg": (
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "cat.jpg": (
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee.jpg": (
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
}
"""Name of each sample: its member in the wheel and the SHA-256 of that member."""

# Small enough for a repository, and high enough that no detection changes against the PNG.
_JPEG_QUALITY = 95


def write_sample(png: Path, target: Path) -> None:
    """Store the picture in `png` as the JPEG file `target`.

    Raises `InputError` where `png` is no picture, `OutputError` where `target` cannot be written.
    """
    image = cv2.imread(str(png), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{png}: expected a PNG picture, but it cannot be decoded")
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(np.asarray(data).tobytes())
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error}") from error
