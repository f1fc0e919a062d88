"""The camera's pixels as the input of a network that was made for a scaled float picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.inference.spec import InputSpec
from pipeline.zoo.graphs.edit import ACTIVATIONS, Floats, NodeWriter, attributes, in_order
from pipeline.zoo.graphs.stem import CHANNELS, COLORS, GROUP, Scaling, pack_stem


def take_pixels(out: NodeWriter, entry: InputSpec) -> None:
    """Let the network in `out` take uint8 BGR pixels in NHWC, where it took what `entry` says.

    What it was trained on is folded into the first convolution; where there is none at the input,
    the scaled picture is computed in the graph.
    """
    _PixelInput(out, entry).write()


class _PixelInput:
    def __init__(self, out: NodeWriter, entry: InputSpec) -> None:
        self._out = out
        self._entry = entry

    def write(self) -> None:
        """Put uint8 pixels in the place of the float picture."""
        entry, rest = self._entry, self._out.nodes
        first = [node for node in rest if entry.name in node.input]
        self._out.nodes = []
        conv = first[0] if len(first) == 1 and first[0].op_type == "Conv" else None
        weight = None if conv is None else self._out.arrays.get(conv.input[1])
        is_folded = entry.layout == "NCHW" and weight is not None and weight.shape[1] == COLORS
        if not is_folded:
            source = self._scaled()
            for node in first:
                node.input[:] = [source if name == entry.name else name for name in node.input]
        elif _is_packable(conv, entry):
            rest = self._packed(conv, rest)
        else:
            self._folded_scale(conv)
        self._out.nodes = in_order([*self._out.nodes, *rest])
        self._out.set_input(entry.name, [entry.height, entry.width, COLORS])

    def _scaled(self) -> str:
        """The float picture that the network was made for, computed in the graph."""
        entry = self._entry
        name = self._out.add(
            "Cast", [entry.name], "pixels.float", to=self._out.onnx.TensorProto.FLOAT
        )
        if entry.color == "RGB":
            order = self._out.constant("pixels.order", np.array([2, 1, 0], np.int64))
            name = self._out.add("Gather", [name, order], "pixels.rgb", axis=3)
        std = np.array(entry.std, np.float64)
        factor = self._out.constant("pixels.factor", (entry.scale / std).astype(np.float32))
        offset = self._out.constant(
            "pixels.offset", (-np.array(entry.mean) / std).astype(np.float32)
        )
        name = self._out.add("Mul", [name, factor], "pixels.product")
        name = self._out.add("Add", [name, offset], "pixels.scaled")
        if entry.layout == "NCHW":
            name = self._out.add("Transpose", [name], "pixels.planes", perm=[0, 3, 1, 2])
        return name

    def _folded_scale(self, conv: Any) -> None:
        """Scale into the weights; the mean into a channel that is 255 inside the picture only.

        It cannot go into the bias: the network pads with zeros after scaling.
        """
        weight, scaling = self._as_rgb(conv)
        spread = np.array(scaling.std, np.float64)[:, None, None] * 255.0
        scaled = weight / spread
        offset = -(scaled * np.array(scaling.mean)[:, None, None]).sum(axis=1, keepdims=True)
        folded, name = scaled[:, ::-1], self._entry.name
        if offset.any():
            folded = np.concatenate((folded, offset), axis=1)
            pads = self._out.constant("pixels.pads", np.array([0] * 7 + [1], np.int64))
            inside = self._out.constant("pixels.inside", np.array(255, np.uint8))
            name = self._out.add("Pad", [name, pads, inside], "pixels.padded")
        name = self._out.add("Transpose", [name], "pixels.planes", perm=[0, 3, 1, 2])
        name = self._float(name)
        stored = self._out.constant(f"{conv.output[0]}.weight", folded.astype(np.float32))
        conv.input[:] = [name, stored, conv.input[2]]

    def _packed(self, conv: Any, rest: list[Any]) -> list[Any]:
        """Four pixels of a row at once, as `pack_stem` says; gives the nodes that are left."""
        entry, output = self._entry, conv.output[0]
        weight, scaling = self._as_rgb(conv)
        before = attributes(conv)["pads"][0]
        packed, bias = pack_stem(weight, self._out.arrays[conv.input[2]], scaling, before)
        rows, columns = entry.height // 2, entry.width // 2
        shapes = {
            "pixels.in": [0, entry.height, entry.width // GROUP, COLORS * GROUP],
            "pixels.pads": [0] * 7 + [CHANNELS - COLORS * GROUP],
            "pixels.out": [0, rows, columns, len(weight)],
        }
        for name, sizes in shapes.items():
            self._out.constant(name, np.array(sizes, np.int64))
        self._out.constant("pixels.inside", np.array(255, np.uint8))
        self._out.constant("pixels.weight", packed)
        self._out.constant("pixels.bias", bias)
        self._out.add("Reshape", [entry.name, "pixels.in"], "pixels.grouped")
        self._out.add("Pad", ["pixels.grouped", "pixels.pads", "pixels.inside"], "pixels.padded")
        self._out.add("Transpose", ["pixels.padded"], "pixels.planes", perm=[0, 3, 1, 2])
        self._float("pixels.planes")
        sides = [before, before, 1 - before, 1 - before]
        inputs = ["pixels.float", "pixels.weight", "pixels.bias"]
        name = self._out.add(
            "Conv", inputs, "pixels.conv", conv.name,
            kernel_shape=[3, 2], strides=[2, 1], pads=sides, group=1,
        )  # fmt: skip
        followers = [node for node in rest if output in node.input]
        replaced = [conv]
        if len(followers) == 1 and followers[0].op_type in ACTIVATIONS:
            active = self._out.onnx.NodeProto()
            active.CopyFrom(followers[0])
            active.input[0], active.output[0] = name, "pixels.active"
            self._out.nodes.append(active)
            replaced.append(followers[0])
            name, output = "pixels.active", followers[0].output[0]
        self._out.add("Transpose", [name], "pixels.rows", perm=[0, 2, 3, 1])
        self._out.add("Reshape", ["pixels.rows", "pixels.out"], "pixels.split")
        self._out.add("Transpose", ["pixels.split"], output, "pixels.answer", perm=[0, 3, 1, 2])
        return [node for node in rest if not any(node is other for other in replaced)]

    def _as_rgb(self, conv: Any) -> tuple[Floats, Scaling]:
        """The first weights for red, green, blue, and the scaling of these as shares of 255."""
        entry = self._entry
        weight: Floats = self._out.arrays[conv.input[1]]
        turn = -1 if entry.color == "BGR" else 1
        unit = 255.0 * entry.scale
        mean, std = (
            [value / unit for value in values][::turn] for values in (entry.mean, entry.std)
        )
        return weight[:, ::turn], Scaling(mean, std)  # type: ignore[arg-type]

    def _float(self, name: str) -> str:
        to_float = self._out.onnx.TensorProto.FLOAT
        return self._out.add("Cast", [name], "pixels.float", to=to_float)


def _is_packable(conv: Any, entry: InputSpec) -> bool:
    """Whether `pack_stem` knows this first convolution."""
    settings = attributes(conv)
    pads = settings.pop("pads", None)
    expected = {"kernel_shape": [3, 3], "strides": [2, 2], "group": 1}
    return (
        settings == expected
        and pads in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1])
        and entry.width % GROUP == 0
        and entry.height % 2 == 0
    )
