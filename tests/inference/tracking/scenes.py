"""Scripted scenes with known truth: objects that move, and what a detector would say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.types import Detections

LABELS = ("person", "car", "phone")


@dataclass(frozen=True)
class Mover:
    """An object: its centre at a time in seconds (x, y in pixels), its size, and its class."""

    path: Callable[[float], tuple[float, float]]
    size: tuple[float, float] = (40.0, 100.0)
    class_id: int = 0

    def box(self, time_s: float) -> list[float]:
        (x, y), (w, h) = self.path(time_s), self.size
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def straight(
    x: float, y: float, vx: float, vy: float = 0.0
) -> Callable[[float], tuple[float, float]]:
    """Constant velocity in pixels per second."""
    return lambda time_s: (x + vx * time_s, y + vy * time_s)


@dataclass(frozen=True)
class Seen:
    """One frame: its capture time, the detections, and the true object of each of them."""

    stamp_ns: int
    detections: Detections
    truth: npt.NDArray[np.int64]


def film(
    movers: Sequence[Mover],
    seconds: float,
    fps: float = 30.0,
    *,
    hidden: Callable[[int, float], bool] = lambda mover, time_s: False,
    miss: float = 0.0,
    noise: float = 1.0,
    shake: float = 0.0,
    seed: int = 0,
) -> Iterator[Seen]:
    """Frames of a scene.

    `hidden` tells when a mover cannot be seen, `miss` the share of detections that are missing at
    random, `noise` the standard deviation of each edge and `shake` that of the whole image, in
    pixels.
    """
    random = np.random.default_rng(seed)
    for number in range(round(seconds * fps)):
        time_s = number / fps
        offset = np.tile(random.normal(0, shake, 2), 2) if shake else np.zeros(4)
        boxes, truth = [], []
        for i, mover in enumerate(movers):
            if hidden(i, time_s) or random.random() < miss:
                continue
            boxes.append(np.array(mover.box(time_s)) + offset + random.normal(0, noise, 4))
            truth.append(i)
        order = random.permutation(len(boxes))
        n = len(boxes)
        yield Seen(
            1_700_000_000_000_000_000 + round(time_s * 1e9),
            Detections(
                np.array(boxes, np.float32).reshape(n, 4)[order],
                random.uniform(0.5, 0.95, n).astype(np.float32),
                np.array([movers[i].class_id for i in truth], np.int32).reshape(n)[order],
                LABELS,
            ),
            np.array(truth, np.int64).reshape(n)[order],
        )
