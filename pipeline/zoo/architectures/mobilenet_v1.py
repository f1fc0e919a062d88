"""MobileNetV1: depthwise separable convolutions. Howard et al., arXiv 1704.04861, table 1."""

from __future__ import annotations

from pipeline.zoo.architectures.network import NetworkBuilder, Tensor

_STEM = 32
_LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels, and the stride of the depthwise convolution."""


def write(net: NetworkBuilder, width: float) -> Tensor:
    """Write the backbone; returns its pooled features. `width` scales every layer."""
    tensor = net.stem(_scaled(_STEM, width), "relu6")
    for index, (channels, stride) in enumerate(_LAYERS, start=1):
        name = f"block{index}"
        tensor = net.depthwise(tensor, f"{name}.0", kernel=3, stride=stride, activation="relu6")
        tensor = net.conv(tensor, f"{name}.1", _scaled(channels, width), activation="relu6")
    return net.pool(tensor)


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width))
