"""Camera pixels as a network's input: what training did to them, folded into the first layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Triple = tuple[float, float, float]

GROUP = 4
"""Pixels of a row that the first convolution reads at once."""
OUTPUTS = GROUP // 2
"""Pixels of a row that it writes at once."""
COLORS = 3
CHANNELS = 4 * GROUP
"""Blue, green and red of each pixel, and a quarter for what is constant."""


class Scaling(NamedTuple):
    """What a network was trained on: (pixel / 255 - mean) / std of red, green and blue."""

    mean: Triple
    std: Triple


IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and spread over ImageNet."""
SYMMETRIC = Scaling(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""From -1 to 1, as in TensorFlow's MobileNets."""


def pack_stem(weight: Float, bias: Float, scaling: Scaling, before: int) -> tuple[Float, Float]:
    """Weight and bias of a 3x3 convolution of stride 2 over raw pixels, four of a row at a time.

    `before` is the padding to the left, 1 or 0.

    Four neighbours of a row are twelve channels that lie together in memory, and four more hold
    255: (out, 3, 3, 3) becomes (2 * out, 16, 3, 2) with strides 2 and 1, whose channels are two
    output pixels side by side. Integer kernels are slow on the three channels of single pixels.

    The mean cannot go into the bias: the network pads with zeros after scaling, so at the border
    the mean must be absent from the padded taps. The channels that are 255 inside the picture and
    0 in its padding carry it exactly.
    """
    mean, std = np.array(scaling.mean), np.array(scaling.std)
    scaled = weight.astype(np.float64) / std[:, None, None] / 255.0
    offset = -(scaled * mean[:, None, None]).sum(axis=1)
    bgr = scaled[:, ::-1]
    out = len(scaled)
    packed = np.zeros((OUTPUTS, out, CHANNELS, 3, 2))
    for output in range(OUTPUTS):
        for tap in range(3):
            # Relative to the first pixel of the group that the output belongs to; -1 lies before.
            group, place = divmod(2 * output + tap - before, GROUP)
            column = group + before
            packed[output, :, COLORS * place : COLORS * (place + 1), :, column] += bgr[..., tap]
            packed[output, :, COLORS * GROUP :, :, column] += offset[:, None, :, tap] / GROUP
    return (
        packed.reshape(OUTPUTS * out, CHANNELS, 3, 2).astype(np.float32),
        np.tile(bias, OUTPUTS),
    )
