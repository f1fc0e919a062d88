"""Brings an image to the form that a network takes, and box edges back to the image.

Our own networks take uint8 BGR pixels as they are; `converter` serves those made by others.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.inference.kernels.kernel import kernel
from pipeline.types import Image

if TYPE_CHECKING:
    from pipeline.inference.spec import InputSpec

Pixels = npt.NDArray[np.uint8]
Convert = Callable[[Pixels], npt.NDArray[Any]]
Fit = Literal["stretch", "letterbox"]
LETTERBOX_GREY = 127  # Darknet fills its letterbox with 0.5
_IS_ARM = platform.machine() in {"aarch64", "arm64"}
_SAFE_RATIO = 1.01
_CHANNELS = {"BGR": (0, 1, 2), "RGB": (2, 1, 0)}


class Placement(NamedTuple):
    """Where an image of `source` size lies inside the network's input, in network pixels.

    A point of the image at (x, y) lies at (left + x * width / source_width, ...) of the input.
    """

    left: int
    top: int
    width: int
    height: int
    source_width: int
    source_height: int


def place(source_width: int, source_height: int, width: int, height: int, fit: Fit) -> Placement:
    """Decide where an image goes in an input of `width` x `height` pixels.

    `stretch` fills the input; `letterbox` keeps the aspect ratio and centres the image.
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
        resize(image, inner)


def resize(image: Image, out: Image, interpolation: int = cv2.INTER_LINEAR) -> None:
    """Fill `out` (height, width, 3) uint8 with `image`.

    OpenCV for Arm reads beyond the last row of an image that is less than 0.4 % higher than `out`.
    The process ends if no memory follows, so such images are resized in a slower way.
    """
    height, width = out.shape[:2]
    if _IS_ARM and height < image.shape[0] < _SAFE_RATIO * height:
        interpolation = cv2.INTER_LINEAR_EXACT
    cv2.resize(image, (width, height), dst=out, interpolation=interpolation)


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
    """The mapping of box edges from the network's input to the source image."""
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


def converter(entry: InputSpec) -> Convert | None:
    """A function from (N, height, width, 3) uint8 BGR to the network's input; None for no change.

    float32 pixels are (pixel * scale - mean) / std, `mean` and `std` in the order of `color`.
    """
    order = np.array(_CHANNELS[entry.color])
    planar = entry.layout == "NCHW"
    if entry.dtype == "float32":
        gain = (entry.scale / np.array(entry.std)).astype(np.float32)
        offset = (-np.array(entry.mean) / np.array(entry.std)).astype(np.float32)

        def normalize(pixels: Pixels) -> npt.NDArray[np.float32]:
            n, height, width, _ = pixels.shape
            shape = (n, 3, height, width) if planar else (n, height, width, 3)
            out = np.empty(shape, np.float32)
            fill = _fill_planes if planar else _fill_pixels
            fill(pixels, order, gain, offset, out)
            return out

        return normalize
    if not planar and entry.color == "BGR":
        return None

    def rearrange(pixels: Pixels) -> Pixels:
        ordered = pixels if entry.color == "BGR" else pixels[..., ::-1]
        return np.ascontiguousarray(ordered.transpose(0, 3, 1, 2) if planar else ordered)

    return rearrange


@kernel
def _fill_planes(pixels, order, gain, offset, out):
    """One plane per channel, (N, 3, H, W)."""
    for n in range(pixels.shape[0]):
        for channel in range(3):
            a, b, source = gain[channel], offset[channel], order[channel]
            for y in range(pixels.shape[1]):
                for x in range(pixels.shape[2]):
                    out[n, channel, y, x] = np.float32(pixels[n, y, x, source]) * a + b


@kernel
def _fill_pixels(pixels, order, gain, offset, out):
    """The channels of a pixel side by side, (N, H, W, 3)."""
    for n in range(pixels.shape[0]):
        for y in range(pixels.shape[1]):
            for x in range(pixels.shape[2]):
                for channel in range(3):
                    value = np.float32(pixels[n, y, x, order[channel]])
                    out[n, y, x, channel] = value * gain[channel] + offset[channel]
