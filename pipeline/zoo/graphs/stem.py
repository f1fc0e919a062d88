"""First convolution of a network over uint8 pixels, four pixels of a row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.zoo.graphs.edit import GraphBuilder

Floats = npt.NDArray[np.float32]
Triple = tuple[float, float, float]

GROUP = 4
"""Pixels of a row that the convolution reads at once."""
OUTPUTS = GROUP // 2
"""Pixels of a row that it writes at once."""
COLORS = 3
CHANNELS = 4 * GROUP
"""Blue, green and red of each pixel, and a quarter for the constant 255."""


class Scaling(NamedTuple):
    """The scaling a network was trained with: (pixel / 255 - mean) / std, in the order R, G, B."""

    mean: Triple
    std: Triple


IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation over ImageNet."""


def pack_stem(weight: Floats, bias: Floats, scaling: Scaling, before: int) -> tuple[Floats, Floats]:
    """Convert a 3x3 convolution of stride 2 to one over raw pixels, four of a row at a time.

    `weight` is (out, 3, 3, 3) in the order R, G, B; `before` is the padding on the left, 1 or 0.
    Returns a weight (2 * out, 16, 3, 2) for strides 2 and 1, whose channels are two output pixels
    side by side, and a bias (2 * out,).

    Four neighbours of a row are twelve channels that are contiguous in memory; four more channels
    hold 255. Integer kernels are slow on the three channels of single pixels.

    The mean cannot be part of the bias: the network pads with zeros after scaling, so the mean must
    be absent from the padded taps at the border. The channels that are 255 inside the image and 0
    in its padding carry it exactly.
    """
    mean, std = np.array(scaling.mean), np.array(scaling.std)
    scaled = weight.astype(np.float64) / std[:, None, None] / 255.0
    offset = -(scaled * mean[:, None, None]).sum(axis=1)
    bgr = scaled[:, ::-1]
    out = len(scaled)
    packed = np.zeros((OUTPUTS, out, CHANNELS, 3, 2))
    for output in range(OUTPUTS):
        for tap in range(3):
            # Relative to the first pixel of the group of this output; -1 is the group before it.
            group, place = divmod(2 * output + tap - before, GROUP)
            column = group + before
            packed[output, :, COLORS * place : COLORS * (place + 1), :, column] += bgr[..., tap]
            packed[output, :, COLORS * GROUP :, :, column] += offset[:, None, :, tap] / GROUP
    return (
        packed.reshape(OUTPUTS * out, CHANNELS, 3, 2).astype(np.float32),
        np.tile(bias, OUTPUTS),
    )


def write_packed_stem(
    builder: GraphBuilder,
    entry: str,
    size: tuple[int, int],
    packed: tuple[Floats, Floats],
    before: int,
    activate: Callable[[str], str],
    output: str = "stem.output",
    conv_name: str = "stem.conv",
) -> str:
    """Write the convolution of `pack_stem` over the uint8 input `entry` of (height, width).

    `activate` adds an activation behind a tensor and returns its output. Returns `output`.
    """
    height, width = size
    weight, bias = packed
    grouped = builder.shape("stem.in", [0, height, width // GROUP, COLORS * GROUP])
    name = builder.add("Reshape", [entry, grouped], "stem.grouped")
    pads = builder.shape("stem.pads", [0] * 7 + [CHANNELS - COLORS * GROUP])
    inside = builder.constant("stem.inside", np.array(255, np.uint8))
    name = builder.add("Pad", [name, pads, inside], "stem.padded")
    name = builder.add("Transpose", [name], "stem.pixels", perm=[0, 3, 1, 2])
    name = builder.add("Cast", [name], "stem.float", to=builder.onnx.TensorProto.FLOAT)
    inputs = [name, builder.constant("stem.weight", weight), builder.constant("stem.bias", bias)]
    sides = [before, before, 1 - before, 1 - before]
    name = builder.add(
        "Conv", inputs, "stem.conv", conv_name,
        kernel_shape=[3, 2], strides=[2, 1], pads=sides, group=1,
    )  # fmt: skip
    name = builder.add("Transpose", [activate(name)], "stem.rows", perm=[0, 2, 3, 1])
    single = builder.shape("stem.out", [0, height // 2, width // 2, len(bias) // OUTPUTS])
    name = builder.add("Reshape", [name, single], "stem.ungrouped")
    return builder.add("Transpose", [name], output, "stem.output", perm=[0, 3, 1, 2])
