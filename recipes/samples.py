"""The sample photographs, taken from the scikit-image wheel, where they lie as PNG files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.zoo.datasets.image_folders import read_picture
from pipeline.zoo.hub.wheels import WheelMember, fetch_member
from pipeline.zoo.onnx_file import write_atomically

_WHEEL = "scikit-image==0.25.2"
SAMPLES = {
    "astronaut.jpg": WheelMember(
        _WHEEL,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "cat.jpg": WheelMember(
        _WHEEL,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee.jpg": WheelMember(
        _WHEEL,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
}
"""The PNG file that each sample is made from."""

# Small enough for a repository, and high enough that no detection changes against the PNG.
_JPEG_QUALITY = 95


def build_samples(folder: Path, work_dir: Path | None = None) -> list[Path]:
    """Write all samples into `folder`, fetched with pip unless `work_dir` has them already.

    Raises `RunError` where a download fails, `InputError` where what came is not what was
    expected, `OutputError` where a file cannot be written.
    """
    written = []
    for name, source in SAMPLES.items():
        write_sample(fetch_member(source, work_dir), folder / name)
        written.append(folder / name)
    return written


def write_sample(png: Path, target: Path) -> None:
    """Store the picture in `png` as the JPEG file `target`.

    Raises `InputError` where `png` is no picture, `OutputError` where `target` cannot be written.
    """
    _, data = cv2.imencode(".jpg", read_picture(png), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    write_atomically(target, np.asarray(data).tobytes())
