"""MobileNetV3 large and small. Howard et al., arXiv 1905.02244, tables 1 and 2."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.zoo.architectures.network import Activation, NetworkBuilder, Tensor, round_channels

_STEM = 16


class Bottleneck(NamedTuple):
    """A row of the tables; `expansion` is relative to the input's channels."""

    kernel: int
    expansion: float
    channels: int
    squeeze: bool
    activation: Activation
    stride: int


LARGE = (
    Bottleneck(3, 1, 16, False, "relu", 1),
    Bottleneck(3, 4, 24, False, "relu", 2),
    Bottleneck(3, 3, 24, False, "relu", 1),
    Bottleneck(5, 3, 40, True, "relu", 2),
    Bottleneck(5, 3, 40, True, "relu", 1),
    Bottleneck(5, 3, 40, True, "relu", 1),
    Bottleneck(3, 6, 80, False, "hswish", 2),
    Bottleneck(3, 2.5, 80, False, "hswish", 1),
    Bottleneck(3, 2.3, 80, False, "hswish", 1),
    Bottleneck(3, 2.3, 80, False, "hswish", 1),
    Bottleneck(3, 6, 112, True, "hswish", 1),
    Bottleneck(3, 6, 112, True, "hswish", 1),
    Bottleneck(5, 6, 160, True, "hswish", 2),
    Bottleneck(5, 6, 160, True, "hswish", 1),
    Bottleneck(5, 6, 160, True, "hswish", 1),
)
SMALL = (
    Bottleneck(3, 1, 16, True, "relu", 2),
    Bottleneck(3, 4.5, 24, False, "relu", 2),
    Bottleneck(3, 88 / 24, 24, False, "relu", 1),
    Bottleneck(5, 4, 40, True, "hswish", 2),
    Bottleneck(5, 6, 40, True, "hswish", 1),
    Bottleneck(5, 6, 40, True, "hswish", 1),
    Bottleneck(5, 3, 48, True, "hswish", 1),
    Bottleneck(5, 3, 48, True, "hswish", 1),
    Bottleneck(5, 6, 96, True, "hswish", 2),
    Bottleneck(5, 6, 96, True, "hswish", 1),
    Bottleneck(5, 6, 96, True, "hswish", 1),
)


def write_large(net: NetworkBuilder, width: float) -> Tensor:
    """Write MobileNetV3-large; returns its features after the layer that follows pooling."""
    return _write(net, width, LARGE, features=1280)


def write_small(net: NetworkBuilder, width: float) -> Tensor:
    """Write MobileNetV3-small; returns its features after the layer that follows pooling."""
    return _write(net, width, SMALL, features=1024)


def _write(
    net: NetworkBuilder, width: float, rows: tuple[Bottleneck, ...], features: int
) -> Tensor:
    tensor = net.stem(round_channels(_STEM * width), "hswish")
    for index, row in enumerate(rows, start=1):
        tensor = _bottleneck(net, tensor, f"block{index}", row, width)
    # Six times the last stage; widths below 1 do not narrow the features.
    last = round_channels(6 * rows[-1].channels * width)
    tensor = net.pool(net.conv(tensor, "last", last, activation="hswish"))
    wide = round_channels(features * max(1.0, width))
    return net.conv(tensor, "features", wide, activation="hswish")


def _bottleneck(
    net: NetworkBuilder, entry: Tensor, name: str, row: Bottleneck, width: float
) -> Tensor:
    """Expand, depthwise, squeeze and excite if marked, project; residual if shapes allow."""
    hidden = round_channels(entry.channels * row.expansion)
    channels = round_channels(row.channels * width)
    tensor = entry
    if hidden != entry.channels:
        tensor = net.conv(tensor, f"{name}.expand", hidden, activation=row.activation)
    tensor = net.depthwise(
        tensor, f"{name}.depthwise",
        kernel=row.kernel, stride=row.stride, activation=row.activation,
    )  # fmt: skip
    if row.squeeze:
        tensor = net.squeeze_excite(tensor, f"{name}.se", round_channels(hidden / 4))
    return net.project(tensor, entry, name, channels, row.stride, "project")
