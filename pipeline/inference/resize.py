"""Bringing a picture to the network's size, and boxes back: the only place for that arithmetic."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.types import Image

Fit = Literal["stretch", "letterbox"]
LETTERBOX_GREY = 127  # Darknet fills its letterbox with 0.5


class Placement(NamedTuple):
    """Where a picture of `source` size lies inside the network's input, in network pixels.

    A point of the picture at (x, y) lies at (left + x * width / source_width, ...) of the input.
    """

    left: int
    top: int
    width: int
    height: int
    source_width: int
    source_height: int


def place(source_width: int, source_height: int, width: int, height: int, fit: Fit) -> Placement:
    """Decide where a picture goes in an input of `width` x `height` pixels.

    `stretch` fills the input; `letterbox` keeps the aspect ratio and centres the picture.
    """
    if fit == "stretch":
        return Placement(0, 0, width, height, source_width, source_height)
    scale = min(width / source_width, height / source_height)
    inner_width = min(width, max(1, round(source_width * scale)))
    inner_height = min(height, max(1, round(source_height * scale)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return Placement(left, top, inner_width, inner_height, source_width, source_height)


def resize_into(image: Image, out: Image, placement: Placement) -> None:
    """Write `image` (H, W, 3) uint8 into `out` at its place; bars around it become grey."""
    left, top, width, height = placement[:4]
    inner = out[top : top + height, left : left + width]
    if inner.shape != out.shape:
        out.fill(LETTERBOX_GREY)
    if inner.shape == image.shape:
        np.copyto(inner, image)
    else:
        cv2.resize(image, (width, height), dst=inner, interpolation=cv2.INTER_LINEAR)


class BoxMapping(NamedTuple):
    """The exact inverse of a `Placement` for box edges: network pixels to source pixels.

    x_source = x_network * scale_x + offset_x, likewise y; boxes are clipped to the frame after.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    frame_width: int
    frame_height: int


def inverse(placement: Placement) -> BoxMapping:
    """How box edges come back from the network's input to the source picture."""
    scale_x = placement.source_width / placement.width
    scale_y = placement.source_height / placement.height
    return BoxMapping(
        scale_x,
        scale_y,
        -placement.left * scale_x,
        -placement.top * scale_y,
        placement.source_width,
        placement.source_height,
    )
