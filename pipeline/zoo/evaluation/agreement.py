"""How far two models say the same of the same picture."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.types import Detections
from pipeline.zoo.datasets.label_names import plain_name

SAME_OBJECT = 0.5
"""Boxes that overlap by at least this (intersection over union) may be one object."""


class Agreement(NamedTuple):
    """Answers that two models share, and all that either gave, each counted once a model."""

    shared: int
    given: int

    @property
    def percent(self) -> float:
        """100 where both said the same, also where neither said anything."""
        return 200.0 * self.shared / self.given if self.given else 100.0

    def __add__(self, other: object) -> Agreement:
        if not isinstance(other, Agreement):
            return NotImplemented
        return Agreement(self.shared + other.shared, self.given + other.given)


def same_objects(first: Detections, second: Detections) -> Agreement:
    """Objects of one label and nearly one place, best score first, each matched once at most.

    The models may number their classes differently: labels are compared, not ids.
    """
    overlap = _overlaps(first.boxes, second.boxes)
    for row, class_id in enumerate(first.class_ids):
        for column, other_id in enumerate(second.class_ids):
            if not is_same_label(first.labels[class_id], second.labels[other_id]):
                overlap[row, column] = 0.0
    shared = 0
    for row in overlap:
        if len(row) and row.max() >= SAME_OBJECT:
            overlap[:, row.argmax()] = 0.0
            shared += 1
    return Agreement(shared, len(first) + len(second))


@lru_cache(maxsize=65536)
def is_same_label(first: str, second: str) -> bool:
    """Whether two labels, lists of synonyms apart by commas, have a name in common."""
    names = ({plain_name(name) for name in label.split(",")} for label in (first, second))
    return bool(set.intersection(*names))


def _overlaps(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Intersection over union of boxes (n, 4) and (m, 4), as (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: npt.NDArray[np.float32] = shared / np.maximum(union, 1e-9)
    return found
