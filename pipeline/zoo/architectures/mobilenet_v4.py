"""MobileNetV4 conv-small, -medium, -large and hybrid-medium. Qin et al., arXiv 2404.10518."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.zoo.architectures.network import NetworkBuilder, Tensor, round_channels

FEATURES = 1280
_LAST = 960


class Conv(NamedTuple):
    """A convolution followed by ReLU."""

    kernel: int
    stride: int
    channels: int


class Fused(NamedTuple):
    """An expansion by a full 3x3 convolution, then a linear projection."""

    stride: int
    expansion: float
    channels: int


class Inverted(NamedTuple):
    """A universal inverted bottleneck: depthwise, expand, depthwise, project.

    `before` and `between` are the depthwise kernels, 0 for none. The last of them has the stride.
    """

    before: int
    between: int
    stride: int
    expansion: float
    channels: int


class Attention(NamedTuple):
    """Mobile multi-query attention of 4 heads that share one key and one value.

    Keys and values are taken from every `stride`-th row and column.
    """

    stride: int
    channels: int


Block = Conv | Fused | Inverted | Attention

_HEADS, _HEAD_WIDTH = 4, 64


class Variant(NamedTuple):
    """The channels of the stem, and the blocks after it."""

    stem: int
    blocks: tuple[Block, ...]


def _inverted(channels: int, *rows: tuple[int, int, int, float]) -> tuple[Block, ...]:
    return tuple(Inverted(*row, channels) for row in rows)


def _attended(channels: int, stride: int, *rows: tuple[int, int, int, float]) -> tuple[Block, ...]:
    """Return bottlenecks, each preceded by attention."""
    attention = Attention(stride, channels)
    return tuple(block for row in rows for block in (attention, Inverted(*row, channels)))


CONV_SMALL = Variant(
    32,
    (
        Conv(3, 2, 32), Conv(1, 1, 32),
        Conv(3, 2, 96), Conv(1, 1, 64),
        *_inverted(96, (5, 5, 2, 3), *((0, 3, 1, 2),) * 4, (3, 0, 1, 4)),
        *_inverted(128, (3, 3, 2, 6), (5, 5, 1, 4), (0, 5, 1, 4), (0, 5, 1, 3), (0, 3, 1, 4),
                   (0, 3, 1, 4)),
    ),
)  # fmt: skip
CONV_MEDIUM = Variant(
    32,
    (
        Fused(2, 4, 48),
        *_inverted(80, (3, 5, 2, 4), (3, 3, 1, 2)),
        *_inverted(160, (3, 5, 2, 6), (3, 3, 1, 4), (3, 3, 1, 4), (3, 5, 1, 4), (3, 3, 1, 4),
                   (3, 0, 1, 4), (0, 0, 1, 2), (3, 0, 1, 4)),
        *_inverted(256, (5, 5, 2, 6), (5, 5, 1, 4), (3, 5, 1, 4), (3, 5, 1, 4), (0, 0, 1, 4),
                   (3, 0, 1, 4), (3, 5, 1, 2), (5, 5, 1, 4), (0, 0, 1, 4), (0, 0, 1, 4),
                   (5, 0, 1, 2)),
    ),
)  # fmt: skip
CONV_LARGE = Variant(
    24,
    (
        Fused(2, 4, 48),
        *_inverted(96, (3, 5, 2, 4), (3, 3, 1, 4)),
        *_inverted(192, (3, 5, 2, 4), *((3, 3, 1, 4),) * 3, (3, 5, 1, 4), *((5, 3, 1, 4),) * 5,
                   (3, 0, 1, 4)),
        *_inverted(512, (5, 5, 2, 4), *((5, 5, 1, 4),) * 3, (5, 0, 1, 4), (5, 3, 1, 4),
                   (5, 0, 1, 4), (5, 0, 1, 4), (5, 3, 1, 4), (5, 5, 1, 4), *((5, 0, 1, 4),) * 3),
    ),
)  # fmt: skip
HYBRID_MEDIUM = Variant(
    32,
    (
        Fused(2, 4, 48),
        *_inverted(80, (3, 5, 2, 4), (3, 3, 1, 2)),
        *_inverted(160, (3, 5, 2, 6), (0, 0, 1, 2), (3, 3, 1, 4), (3, 5, 1, 4)),
        *_attended(160, 2, (3, 3, 1, 4), (3, 0, 1, 4), (3, 3, 1, 4), (3, 0, 1, 4)),
        *_inverted(256, (5, 5, 2, 6), (5, 5, 1, 4), (3, 5, 1, 4), (3, 5, 1, 4), (0, 0, 1, 2),
                   (3, 5, 1, 2), (0, 0, 1, 2), (0, 0, 1, 4)),
        *_attended(256, 1, (3, 0, 1, 4), (5, 5, 1, 4), (5, 0, 1, 4), (5, 0, 1, 4)),
    ),
)  # fmt: skip


def write(net: NetworkBuilder, width: float, variant: Variant) -> Tensor:
    """Write a variant; returns its features after the layer that follows pooling.

    Widths below 1 do not narrow the stem, as in the published networks of such widths.
    """
    tensor = net.stem(round_channels(variant.stem * max(1.0, width)), "relu")
    for index, block in enumerate(variant.blocks, start=1):
        name = f"block{index}"
        channels = round_channels(block.channels * width)
        if isinstance(block, Conv):
            tensor = net.conv(
                tensor, name, channels,
                kernel=block.kernel, stride=block.stride, activation="relu",
            )  # fmt: skip
        elif isinstance(block, Fused):
            tensor = _fused(net, tensor, name, block, channels)
        elif isinstance(block, Inverted):
            tensor = _inverted_bottleneck(net, tensor, name, block, channels)
        else:
            tensor = _attention(net, tensor, name, block.stride)
    tensor = net.pool(net.conv(tensor, "last", round_channels(_LAST * width), activation="relu"))
    return net.conv(tensor, "features", FEATURES, activation="relu")


def _fused(net: NetworkBuilder, entry: Tensor, name: str, block: Fused, channels: int) -> Tensor:
    hidden = round_channels(entry.channels * block.expansion)
    tensor = net.conv(
        entry, f"{name}.expand", hidden, kernel=3, stride=block.stride, activation="relu"
    )
    return net.conv(tensor, f"{name}.project", channels)


def _inverted_bottleneck(
    net: NetworkBuilder, entry: Tensor, name: str, block: Inverted, channels: int
) -> Tensor:
    tensor = entry
    if block.before:
        stride = 1 if block.between else block.stride
        tensor = net.depthwise(
            tensor, f"{name}.before", kernel=block.before, stride=stride, activation="none"
        )
    hidden = round_channels(entry.channels * block.expansion)
    tensor = net.conv(tensor, f"{name}.expand", hidden, activation="relu")
    if block.between:
        tensor = net.depthwise(
            tensor, f"{name}.between",
            kernel=block.between, stride=block.stride, activation="relu",
        )  # fmt: skip
    return net.project(tensor, entry, name, channels, block.stride, "project")


def _attention(net: NetworkBuilder, entry: Tensor, name: str, stride: int) -> Tensor:
    """Write softmax(Q K / sqrt(d)) V (arXiv 1706.03762) with shared K and V (1911.02150).

    The norm before it is a scale and an offset per channel. The heads are stacked as rows of one
    matrix, so each product is a single MatMul.
    """
    places = entry.size**2
    normed = net.conv(entry, f"{name}.norm", entry.channels, groups=entry.channels)
    queries = net.conv(normed, f"{name}.query", _HEADS * _HEAD_WIDTH)
    rows = net.reshape(queries.name, [0, _HEADS, _HEAD_WIDTH, places], f"{name}.query.split")
    rows = net.add("Transpose", [rows], f"{name}.query.turned", perm=[0, 1, 3, 2])
    rows = net.reshape(rows, [0, _HEADS * places, _HEAD_WIDTH], f"{name}.query.rows")
    keys = _reduced(net, normed, f"{name}.key", stride)
    values = _reduced(net, normed, f"{name}.value", stride)
    turned = net.add("Transpose", [values], f"{name}.value.turned", perm=[0, 2, 1])
    scores = net.add("MatMul", [rows, keys], f"{name}.scores")
    scores = net.scale(scores, _HEAD_WIDTH**-0.5, f"{name}.scaled")
    shares = net.add("Softmax", [scores], f"{name}.shares", axis=-1)
    mixed = net.add("MatMul", [shares, turned], f"{name}.mixed")
    mixed = net.reshape(mixed, [0, _HEADS, places, _HEAD_WIDTH], f"{name}.mixed.split")
    mixed = net.add("Transpose", [mixed], f"{name}.mixed.turned", perm=[0, 1, 3, 2])
    mixed = net.reshape(
        mixed, [0, _HEADS * _HEAD_WIDTH, entry.size, entry.size], f"{name}.mixed.map"
    )
    joined = Tensor(mixed, _HEADS * _HEAD_WIDTH, entry.size)
    projected = net.conv(joined, f"{name}.project", entry.channels, is_added=True)
    return net.residual(entry, projected, name)


def _reduced(net: NetworkBuilder, entry: Tensor, name: str, stride: int) -> str:
    """Write keys or values [N, head width, places]."""
    tensor = entry
    if stride > 1:
        tensor = net.depthwise(tensor, f"{name}.down", kernel=3, stride=stride, activation="none")
    tensor = net.conv(tensor, name, _HEAD_WIDTH)
    return net.reshape(tensor.name, [0, _HEAD_WIDTH, tensor.size**2], f"{name}.rows")
