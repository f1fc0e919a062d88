"""Bringing uint8 BGR pixels into the form that a network made by others takes.

Our own networks take the pixels as they are: nothing here runs for them.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.inference.kernels import kernel
from pipeline.inference.spec import InputSpec

Pixels = npt.NDArray[np.uint8]
Convert = Callable[[Pixels], npt.NDArray[Any]]

_CHANNELS = {"BGR": (0, 1, 2), "RGB": (2, 1, 0)}


def converter(entry: InputSpec) -> Convert | None:
    """What turns (N, height, width, 3) uint8 BGR into the network's input; None for no change.

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
    """One plane a channel, (N, 3, H, W)."""
    for n in range(pixels.shape[0]):
        for channel in range(3):
            a, b, source = gain[channel], offset[channel], order[channel]
            for y in range(pixels.shape[1]):
                for x in range(pixels.shape[2]):
                    out[n, channel, y, x] = numba.float32(pixels[n, y, x, source]) * a + b


@kernel
def _fill_pixels(pixels, order, gain, offset, out):
    """The channels of a pixel beside one another, (N, H, W, 3)."""
    for n in range(pixels.shape[0]):
        for y in range(pixels.shape[1]):
            for x in range(pixels.shape[2]):
                for channel in range(3):
                    value = numba.float32(pixels[n, y, x, order[channel]])
                    out[n, y, x, channel] = value * gain[channel] + offset[channel]
