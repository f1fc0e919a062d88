"""Images into the network's input, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import Classifier, Detector
from pipeline.inference.preprocess import LETTERBOX_GREY, inverse, place, resize_into

SIZES = np.random.default_rng(0).integers(1, 4000, (40, 4)).tolist()


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_inverse_maps_every_point_back_exactly(fit, sizes):
    source_width, source_height, width, height = sizes
    placement = place(source_width, source_height, width, height, fit)
    mapping = inverse(placement)
    for x, y in np.random.default_rng(1).random((20, 2)):
        in_network_x = placement.left + x * placement.width
        in_network_y = placement.top + y * placement.height
        back_x = in_network_x * mapping.scale_x + mapping.offset_x
        back_y = in_network_y * mapping.scale_y + mapping.offset_y
        assert back_x == pytest.approx(x * source_width, abs=1e-6 * source_width)
        assert back_y == pytest.approx(y * source_height, abs=1e-6 * source_height)


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_letterbox_keeps_the_aspect_ratio_and_touches_two_sides(sizes):
    source_width, source_height, width, height = sizes
    inner = place(source_width, source_height, width, height, "letterbox")
    assert inner.width == width or inner.height == height
    assert 0 <= inner.left <= width - inner.width
    assert 0 <= inner.top <= height - inner.height
    scale = min(width / source_width, height / source_height)
    assert abs(inner.width - source_width * scale) <= 1
    assert abs(inner.height - source_height * scale) <= 1


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_marked_region_is_where_the_placement_says(fit):
    image = np.zeros((300, 500, 3), np.uint8)
    image[100:140, 200:260] = 255
    placement = place(500, 300, 416, 416, fit)
    out = np.empty((416, 416, 3), np.uint8)
    resize_into(image, out, placement)
    inside = out[placement.top : placement.top + placement.height]
    rows, columns = np.nonzero(inside[..., 0] > 127)
    mapping = inverse(placement)
    left = (columns.min() + 0) * mapping.scale_x + mapping.offset_x
    right = (columns.max() + 1) * mapping.scale_x + mapping.offset_x
    if fit == "letterbox":
        assert (out[0] == LETTERBOX_GREY).all()
        assert (out[-1] == LETTERBOX_GREY).all()
        columns = columns[rows < placement.height]
    assert left == pytest.approx(200, abs=mapping.scale_x)
    assert right == pytest.approx(260, abs=mapping.scale_x)


def test_an_image_of_the_networks_size_is_copied_unchanged():
    image = np.random.default_rng(2).integers(0, 256, (416, 416, 3), np.uint8)
    out = np.empty_like(image)
    resize_into(image, out, place(416, 416, 416, 416, "stretch"))
    np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((90, 90), np.uint8),
        np.zeros((90, 90, 4), np.uint8),
        np.zeros((90, 90, 3), np.float32),
        np.zeros((90, 90, 3), np.uint16),
        np.zeros((0, 90, 3), np.uint8),
    ],
    ids=["grey", "with-alpha", "float", "16-bit", "empty"],
)
def test_images_of_another_form_are_refused_by_both_models(image):
    with pytest.raises(ValueError, match=r"non-empty \(H, W, 3\) uint8 array, but got"):
        Detector()(image)
    with pytest.raises(ValueError, match=r"non-empty \(H, W, 3\) uint8 array, but got"):
        Classifier()(image, np.zeros((1, 4), np.float32))
