"""Crops at and beyond the border of the image, and the best classes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.inference.classifier import CONTEXT, best_classes, crop_into

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)


def crop(box, image=IMAGE, size=32):
    out = np.full((size, size, 3), 7, np.uint8)
    crop_into(image, np.array(box, np.float32), out)
    return out


def reference_crop(box, image=IMAGE, size=32):
    """Pad the whole image far beyond its border, then cut."""
    pad = 400
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    x1, y1, x2, y2 = box
    side = max(1, round(max(x2 - x1, y2 - y1) * CONTEXT))
    left, top = round((x1 + x2 - side) / 2) + pad, round((y1 + y2 - side) / 2) + pad
    cut = padded[top : top + side, left : left + side]
    shrink = cv2.INTER_AREA if side > 2 * size else cv2.INTER_LINEAR
    return cv2.resize(cut, (size, size), interpolation=shrink)


@pytest.mark.parametrize(
    "box",
    [
        (50, 30, 90, 80),
        (0, 0, 40, 40),
        (170, 90, 200, 120),
        (0, 0, 200, 120),
        (100, 0, 104, 120),
        (10.4, 20.6, 55.5, 31.2),
    ],
    ids=["inside", "top-left", "bottom-right", "whole", "thin", "fractions"],
)
def test_crop_is_a_square_around_the_box_with_repeated_border(box):
    np.testing.assert_array_equal(crop(box), reference_crop(box))


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 5), (60, 60, 61, 61), (200, 120, 200, 120), (0, 0, 0, 0), (-50, -50, -20, -20)],
    ids=["empty", "one-pixel", "empty-at-far-corner", "empty-at-origin", "outside"],
)
def test_boxes_without_area_still_give_pixels_of_the_image(box):
    out = crop(box)
    colours = set(map(tuple, IMAGE.reshape(-1, 3)))
    assert tuple(out[0, 0]) in colours


def test_best_classes_are_the_softmax_in_falling_order():
    logits = np.random.default_rng(1).normal(0, 3, (7, 50)).astype(np.float32)
    ids, scores = best_classes(logits, 5)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(1, keepdims=True)
    np.testing.assert_array_equal(ids, np.argsort(-logits, 1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-softmax, 1)[:, :5], rtol=1e-5)
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32


def test_large_logits_do_not_overflow():
    ids, scores = best_classes(np.array([[1e4, -1e4, 0]], np.float32), 3)
    assert ids.tolist() == [[0, 2, 1]]
    np.testing.assert_array_equal(scores, [[1, 0, 0]])
