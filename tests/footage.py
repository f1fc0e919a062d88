"""A video with objects: one made of the sample photographs, and a filmed one if it is here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.opencv_logging import quiet_opening

SAMPLES = Path(__file__).resolve().parents[1] / "models" / "samples"
SIZE = (640, 360)


class Footage(NamedTuple):
    """A video and what is known of it.

    `few` and `many` are how many damaged bytes, from three tenths of the file on, cost a few frames
    and all that follow.
    """

    path: Path
    frames: int
    fps: float
    few: int
    many: int
    first_lost: int


def make(path: Path, frames: int = 300) -> Footage:
    """Write a video at `path`: a camera moves over three photographs, one after the other."""
    photos = [
        cv2.resize(cv2.imread(str(SAMPLES / f"{name}.jpg")), (960, 540))
        for name in ("astronaut", "cat", "coffee")
    ]
    with quiet_opening():
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 25.0, SIZE)
    for number in range(frames):
        x, y = 3 * number % (960 - SIZE[0]), number % (540 - SIZE[1])
        photo = photos[len(photos) * number // frames]
        writer.write(np.ascontiguousarray(photo[y : y + SIZE[1], x : x + SIZE[0]]))
    writer.release()
    return Footage(path, frames, 25.0, few=50_000, many=800_000, first_lost=85)


def filmed(shared: Path) -> Footage:
    """A video of the test data."""
    path = shared / "videos" / "bottle-detection.mp4"
    return Footage(path, 1189, 29.83, few=500, many=200_000, first_lost=450)
