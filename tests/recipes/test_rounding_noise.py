"""How much results change with the rounding of pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.types import Detections
from recipes import rounding_noise

LABELS = ("cup", "cat")


def found(*objects):
    """Objects (x, score, class), 10 pixels wide."""
    boxes = [[x, 0, x + 10, 10] for x, _, _ in objects]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in objects], np.float32),
        np.array([class_id for *_, class_id in objects], np.int32),
        LABELS,
    )


def test_objects_are_paired_by_class_and_overlap_and_the_others_counted():
    noise = rounding_noise.Noise()
    noise.add(
        found((0, 0.9, 0), (50, 0.5, 1), (80, 0.4, 0)),
        found((52, 0.6, 1), (1, 0.8, 0), (80, 0.4, 1)),
    )
    assert noise.scores == pytest.approx([0.1, 0.1])
    assert noise.edges == pytest.approx([1.0, 2.0])
    assert noise.unpaired == 2


def test_images_without_objects_are_paired():
    noise = rounding_noise.Noise()
    noise.add(found(), found((0, 0.9, 0)))
    noise.add(found(), found())
    assert (noise.scores, noise.unpaired) == ([], 1)


def test_changes_are_by_one_in_the_given_share_of_values():
    pixels = np.full((1, 416, 416, 3), 100, np.uint8)
    change = rounding_noise.CHANGES["+-1 at random"]
    changed = change(pixels[0], pixels, np.random.default_rng(0), 0.2).astype(int) - 100
    assert set(np.unique(changed)) == {-1, 0, 1}
    assert np.mean(changed != 0) == pytest.approx(0.2, abs=0.01)


def test_exact_rounding_differs_by_at_most_one():
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    pixels = cv2.resize(image, (416, 416))[None]
    exact = rounding_noise.CHANGES["exact rounding"](image, pixels, np.random.default_rng(0), 0.2)
    assert exact.shape == pixels.shape
    assert np.abs(exact.astype(int) - pixels).max() == 1


def test_missing_images_are_named(tmp_path, caplog):
    assert rounding_noise.main(["--data", str(tmp_path / "none")]) == rounding_noise.EXIT_BAD_INPUT
    assert "coco-val128" in caplog.text
