"""An image file with its true boxes, checked and in fractions of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

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
