"""MobileNetV2: inverted residuals. Sandler et al., arXiv 1801.04381, table 2."""

from __future__ import annotations

from pipeline.zoo.architectures.network import NetworkBuilder, Tensor, round_channels

STEM = 32
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, repeats and first stride of each stage (t, c, n, s in the paper)."""
FEATURES = 1280


def write(net: NetworkBuilder, width: float) -> Tensor:
    """Write the backbone; returns its pooled features, 1280 for widths up to 1."""
    tensor = net.stem(round_channels(STEM * width), "relu6")
    index = 1
    for expansion, channels, repeats, first_stride in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            out = round_channels(channels * width)
            tensor = _bottleneck(net, tensor, f"block{index}", out, expansion, stride)
            index += 1
    last = round_channels(FEATURES * max(1.0, width))
    return net.pool(net.conv(tensor, f"block{index}.0", last, activation="relu6"))


def _bottleneck(
    net: NetworkBuilder, entry: Tensor, name: str, channels: int, expansion: int, stride: int
) -> Tensor:
    """Expand (unless the factor is 1), depthwise 3x3, project; residual if shapes allow."""
    tensor, part = entry, 0
    if expansion != 1:
        hidden = entry.channels * expansion
        tensor = net.conv(tensor, f"{name}.{part}", hidden, activation="relu6")
        part += 1
    tensor = net.depthwise(tensor, f"{name}.{part}", kernel=3, stride=stride, activation="relu6")
    return net.project(tensor, entry, name, channels, stride, str(part + 1))
