"""Conversion of a network with a scaled float input to one that takes uint8 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.inference.spec import InputSpec
from pipeline.zoo.graphs.edit import ACTIVATIONS, GraphBuilder, attributes, consumers_of
from pipeline.zoo.graphs.stem import COLORS, GROUP, Floats, Scaling, pack_stem, write_packed_stem


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
