"""Conversion of a network to uint8 pixels, and its first convolution over four pixels at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.spec import InputSpec
from pipeline.zoo.graphs.edit import ACTIVATIONS, GraphBuilder, attributes, consumers_of

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


def take_uint8_input(builder: GraphBuilder, entry: InputSpec) -> None:
    """Make the network in `builder` take uint8 BGR pixels in NHWC instead of what `entry` says.

    The scaling is folded into the first convolution. If the input is not read by a convolution
    alone, the scaled image is computed in the graph.
    """
    rest = builder.nodes
    first = [node for node in rest if entry.name in node.input]
    builder.nodes = []
    conv = first[0] if len(first) == 1 and first[0].op_type == "Conv" else None
    weight = None if conv is None else builder.arrays.get(conv.input[1])
    is_folded = entry.layout == "NCHW" and weight is not None and weight.shape[1] == COLORS
    if not is_folded:
        source = _write_scaled(builder, entry)
        for node in first:
            node.input[:] = [source if name == entry.name else name for name in node.input]
    elif _is_packable(conv, entry):
        rest = _write_packed(builder, entry, conv, rest)
    else:
        _fold_scaling(builder, entry, conv)
    builder.nodes += rest


def _write_scaled(builder: GraphBuilder, entry: InputSpec) -> str:
    """Compute the float image that the network was made for, and return its name."""
    name = _to_float(builder, entry.name)
    if entry.color == "RGB":
        order = builder.shape("pixels.order", [2, 1, 0])
        name = builder.add("Gather", [name, order], "pixels.rgb", axis=3)
    std = np.array(entry.std, np.float64)
    factor = builder.constant("pixels.factor", (entry.scale / std).astype(np.float32))
    offset = builder.constant("pixels.offset", (-np.array(entry.mean) / std).astype(np.float32))
    name = builder.add("Mul", [name, factor], "pixels.product")
    name = builder.add("Add", [name, offset], "pixels.scaled")
    if entry.layout == "NCHW":
        name = builder.add("Transpose", [name], "pixels.planes", perm=[0, 3, 1, 2])
    return name


def _fold_scaling(builder: GraphBuilder, entry: InputSpec, conv: Any) -> None:
    """Fold the scale into the weights, and the mean into a channel that is 255 inside the image.

    The mean cannot be part of the bias: the network pads with zeros after scaling.
    """
    weight, scaling = _as_rgb(builder, entry, conv)
    spread = np.array(scaling.std, np.float64)[:, None, None] * 255.0
    scaled = weight / spread
    offset = -(scaled * np.array(scaling.mean)[:, None, None]).sum(axis=1, keepdims=True)
    folded, name = scaled[:, ::-1], entry.name
    if offset.any():
        folded = np.concatenate((folded, offset), axis=1)
        pads = builder.shape("pixels.pads", [0] * 7 + [1])
        inside = builder.constant("pixels.inside", np.array(255, np.uint8))
        name = builder.add("Pad", [name, pads, inside], "pixels.padded")
    name = builder.add("Transpose", [name], "pixels.planes", perm=[0, 3, 1, 2])
    stored = builder.constant(f"{conv.output[0]}.weight", folded.astype(np.float32))
    conv.input[:] = [_to_float(builder, name), stored, conv.input[2]]


def _write_packed(builder: GraphBuilder, entry: InputSpec, conv: Any, rest: list[Any]) -> list[Any]:
    """Write the convolution as `pack_stem` describes, and return the nodes that are left."""
    weight, scaling = _as_rgb(builder, entry, conv)
    before = attributes(conv)["pads"][0]
    packed = pack_stem(weight, builder.arrays[conv.input[2]], scaling, before)
    replaced, output = [conv], conv.output[0]
    followers = consumers_of(rest).get(output, [])
    if len(followers) == 1 and followers[0].op_type in ACTIVATIONS:
        replaced.append(followers[0])
        output = followers[0].output[0]

    def activate(tensor: str) -> str:
        for node in replaced[1:]:
            tensor = builder.add_copy(node, tensor, "stem.active")
        return tensor

    size = (entry.height, entry.width)
    write_packed_stem(builder, entry.name, size, packed, before, activate, output, conv.name)
    return [node for node in rest if not any(node is other for other in replaced)]


def _as_rgb(builder: GraphBuilder, entry: InputSpec, conv: Any) -> tuple[Floats, Scaling]:
    """Return the first weights in the order R, G, B, and the scaling as shares of 255."""
    weight: Floats = builder.arrays[conv.input[1]]
    turn = -1 if entry.color == "BGR" else 1
    unit = 255.0 * entry.scale
    mean, std = ([value / unit for value in values][::turn] for values in (entry.mean, entry.std))
    return weight[:, ::turn], Scaling(mean, std)  # type: ignore[arg-type]


def _to_float(builder: GraphBuilder, name: str) -> str:
    return builder.add("Cast", [name], "pixels.float", to=builder.onnx.TensorProto.FLOAT)


def _is_packable(conv: Any, entry: InputSpec) -> bool:
    """Return whether `pack_stem` supports this first convolution."""
    settings = attributes(conv)
    pads = settings.pop("pads", None)
    expected = {"kernel_shape": [3, 3], "strides": [2, 2], "group": 1}
    return (
        settings == expected
        and pads in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1])
        and entry.width % GROUP == 0
        and entry.height % 2 == 0
    )
