"""Results to write, draw and show."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.types import Classifications, Detections, Frame, Header, Image, Result

LABELS = ("person", "cat", "Käse", "猫", "cup")
FINER = ("tabby, tabby cat", "espresso", "a name so long that it fits into no small image at all")


def make_result(
    count: int = 3,
    *,
    size: tuple[int, int] = (320, 240),
    seq: int = 0,
    stamp_ns: int = 1_700_000_000_000_000_000,
    seed: int = 0,
    classify: bool = True,
    image: Image | None = None,
) -> Result:
    """`count` objects anywhere in an image of `size` (width, height), which is grey noise."""
    noise = np.random.default_rng(seed)
    corners = noise.uniform(0, 1, (count, 2, 2)) * size
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    scores = np.sort(noise.uniform(0.25, 1, count))[::-1].astype(np.float32)
    detections = Detections(
        boxes, scores, noise.integers(0, len(LABELS), count).astype(np.int32), LABELS
    )
    classes = Classifications(
        noise.integers(0, len(FINER), (count, 2)).astype(np.int32),
        noise.uniform(0, 1, (count, 2)).astype(np.float32),
        FINER,
    )
    if image is None:
        image = noise.integers(100, 140, (size[1], size[0], 3), np.uint8)
    frame = Frame(image, stamp_ns, seq, "front")
    chosen = classes if classify else None
    header = Header("front", seq, stamp_ns, *size)
    return Result(header, detections, chosen, {"detect": 7_000_000}, frame)


@pytest.fixture
def result() -> Result:
    return make_result()
