"""A float network rewritten with quantise/dequantise (QDQ) pairs around its nodes.

ONNX Runtime fuses each wrapped node into its integer kernel. The camera's uint8 pixels are taken as
quantised values as they are, so that no float picture is ever made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.zoo.onnx_file import require_onnx
from pipeline.zoo.quantization.calibration import Range
from pipeline.zoo.quantization.rounding import QuantizedWeight

if TYPE_CHECKING:
    import onnx

_UINT8 = 2  # as the ONNX format numbers its types
_LARGEST_BIAS = 2.0**30  # in units of its scale; float32 holds it, and a sum of products has room
PIXEL_RANGE = Range(0.0, 255.0)

_WEIGHTED = ("Conv", "Gemm")
_PRODUCT = "MatMul"
"""Weights (in, out) as the second input, no bias, and a float output."""
_SCALE_KEEPING = (
    *("MaxPool", "Slice", "Resize", "Flatten", "Reshape", "Transpose", "Concat", "Identity"),
)
"""Nodes whose output values all stand in their inputs: in and out share one scale, at no cost."""
_COMPUTING = (*_WEIGHTED, _PRODUCT, "LeakyRelu", "Add", "GlobalAveragePool", "Clip", "Relu")
_CLIPPING = ("Clip", "Relu")
"""Fused into the convolution before them: the range of their output does the clipping."""


class QuantizationPlan:
    """Which nodes of a float graph are quantised, and which tensors get a scale."""

    def __init__(self, model: onnx.ModelProto, keep_float: Collection[str] = ()) -> None:
        graph = model.graph
        self._nodes = list(graph.node)
        self._constants = {tensor.name for tensor in graph.initializer}
        self._consumers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self.pixels: set[str] = set()
        kinds = {*_COMPUTING, *_SCALE_KEEPING}
        uint8 = {value.name for value in graph.input if value.type.tensor_type.elem_type == _UINT8}
        self._quantized: list[Any] = []
        for node in self._nodes:
            if node.input and node.input[0] in uint8:
                # What works on the raw pixels is an integer kernel already.
                (self.pixels if node.op_type == "Cast" else uint8).add(node.output[0])
            elif node.op_type in kinds and node.name not in keep_float:
                self._quantized.append(node)
        self.nodes = {node.name for node in self._quantized}
        self.tensors = self._find_tensors()

    @property
    def weighted(self) -> list[Any]:
        """The quantised nodes that have weights, in order."""
        kinds = (*_WEIGHTED, _PRODUCT)
        return [node for node in self._quantized if node.op_type in kinds]

    @property
    def clipped(self) -> list[str]:
        """Outputs that have no scale of their own, because a clipping node follows at once."""
        return [node.output[0] for node in self._quantized if self._is_clipped(node)]

    @property
    def layers(self) -> dict[str, list[str]]:
        """What can be left in float on its own, in order: its nodes, by the first one's name.

        A node that computes, and those behind it that only clip its answer or hand it on.
        """
        found: dict[str, list[str]] = {}
        taken: set[str] = set()
        for node in self._quantized:
            if node.op_type in _COMPUTING and node.name not in taken:
                found[node.name] = [node.name, *self._behind(node)]
                taken.update(found[node.name])
        return found

    def _behind(self, node: Any) -> list[str]:
        kinds = (*_CLIPPING, "LeakyRelu", *_SCALE_KEEPING)
        names: list[str] = []
        while len(followers := self._consumers.get(node.output[0], [])) == 1:
            (node,) = followers
            if node.op_type not in kinds or node.op_type == "Concat" or node.name not in self.nodes:
                break
            names.append(node.name)
        return names

    def bias_of(self, node: Any) -> str:
        """The constant that is added to what a weighted node multiplies."""
        if node.op_type in _WEIGHTED:
            return str(node.input[2])
        (addition,) = self._consumers[node.output[0]]
        return str(addition.input[1])

    def activations(self, node: Any) -> list[str]:
        """The inputs of a node that are activations, not weights or settings."""
        takes_many = node.op_type in ("Concat", "Add") or node.name not in self.nodes
        names = node.input if takes_many else node.input[:1]
        return [name for name in names if name not in self._constants]

    def slope_after(self, tensor: str) -> float:
        """By what negative values are multiplied before anything else sees them; 1 without."""
        consumers = self._consumers.get(tensor, [])
        if len(consumers) == 1 and consumers[0].op_type == "LeakyRelu":
            return float(consumers[0].attribute[0].f)
        return 1.0

    def share(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """Give tensors that a scale-keeping node joins the widest range among them."""
        groups = {name: {name} for name in ranges}
        for node in self._quantized:
            if node.op_type in _SCALE_KEEPING:
                joined: set[str] = set()
                for name in (*self.activations(node), *node.output):
                    joined |= groups.get(name, set())
                for name in joined:
                    groups[name] = joined
        return {
            name: Range(
                min(ranges[other].low for other in group),
                max(ranges[other].high for other in group),
            )
            for name, group in groups.items()
        }

    def _find_tensors(self) -> list[str]:
        """Inputs and outputs of quantised nodes, except where a clipping node follows at once."""
        names: dict[str, None] = {}
        for node in self._quantized:
            names.update(dict.fromkeys(self.activations(node)))
            if node.op_type != _PRODUCT:
                names[node.output[0]] = None
        fused = set(self.clipped)
        return [name for name in names if name not in fused and name not in self.pixels]

    def _is_clipped(self, node: Any) -> bool:
        followers = self._consumers.get(node.output[0], [])
        return (
            node.op_type in _WEIGHTED
            and len(followers) == 1
            and followers[0].op_type in _CLIPPING
            and followers[0].name in self.nodes
        )


def write_qdq(
    model: onnx.ModelProto,
    plan: QuantizationPlan,
    ranges: Mapping[str, Range],
    weights: Mapping[str, QuantizedWeight],
) -> onnx.ModelProto:
    """Wrap the planned nodes in QDQ pairs.

    `ranges` holds one range for each planned tensor, `weights` the integers of each planned node
    that has weights, by its name; their changes to biases are made here too.
    """
    onnx = require_onnx()
    writer = _QdqWriter(onnx, model, plan, ranges, weights)
    writer.write()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(writer.nodes)
    del result.graph.initializer[:]
    result.graph.initializer.extend(writer.initializers.values())
    return result


def _with_room(
    values: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], least: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights of a larger scale where theirs is below `least`: the bias must fit its integer.

    That is so in channels that hardly have weights, and answer with their bias alone.
    """
    if not (scale < least).any():
        return values, scale
    wider = np.maximum(scale, least).astype(np.float32)
    shrunk = values * (scale / wider).reshape(-1, *[1] * (values.ndim - 1))
    return np.rint(shrunk).astype(np.int8), wider


class _QdqWriter:
    def __init__(
        self,
        onnx: Any,
        model: Any,
        plan: QuantizationPlan,
        ranges: Mapping[str, Range],
        weights: Mapping[str, QuantizedWeight],
    ) -> None:
        self._onnx = onnx
        self._plan = plan
        self._ranges = {**ranges, **dict.fromkeys(plan.pixels, PIXEL_RANGE)}
        self._source = list(model.graph.node)
        self._outputs = {value.name for value in model.graph.output}
        self._floats = {tensor.name: tensor for tensor in model.graph.initializer}
        self._integers = weights
        self._bias_changes = {
            plan.bias_of(node): weights[node.name].bias_change for node in plan.weighted
        }
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def write(self) -> None:
        for node in self._source:
            if node.op_type == "Cast" and node.output[0] in self._plan.pixels:
                self._dequantize(node.input[0], node.output[0])
            else:
                self._copy(node)

    def _copy(self, node: Any) -> None:
        copy = self._onnx.NodeProto()
        copy.CopyFrom(node)
        output = node.output[0]
        if node.name in self._plan.nodes and node.op_type in _WEIGHTED:
            copy.input[:] = [self._dequantized(node.input[0]), *self._weights(node)]
        elif node.name in self._plan.nodes and node.op_type == _PRODUCT:
            copy.input[:] = [self._dequantized(node.input[0]), self._factor(node)]
        else:
            activations = set(self._plan.activations(node))
            copy.input[:] = [
                self._dequantized(name) if name in activations else self._keep(name)
                for name in node.input
            ]
        if output in self._ranges:
            copy.output[:] = [f"{output}.float"]
        self.nodes.append(copy)
        if output in self._ranges:
            self._node("QuantizeLinear", [f"{output}.float", *self._scale(output)], f"{output}.q")
            if output in self._outputs:
                self._dequantize(f"{output}.q", output)
            else:
                self._dequantize(f"{output}.q", f"{output}.dq")

    def _dequantized(self, name: str) -> str:
        if name in self._plan.pixels or name not in self._ranges or name in self._outputs:
            return name
        return f"{name}.dq"

    def _keep(self, name: str) -> str:
        if name in self._bias_changes:
            self._constant(name, self._bias(name))
        elif name in self._floats:
            self.initializers[name] = self._floats[name]
        return name

    def _bias(self, name: str) -> npt.NDArray[np.float32]:
        bias: npt.NDArray[np.float32] = self._onnx.numpy_helper.to_array(self._floats[name])
        return bias + self._bias_changes[name]

    def _weights(self, node: Any) -> list[str]:
        """The dequantised weight and bias of a node, stored as int8 and int32."""
        values, scale, _ = self._integers[node.name]
        step = self._ranges[self._plan.activations(node)[0]].scale
        bias = self._bias(node.input[2])
        least = (np.abs(bias) / (_LARGEST_BIAS * step)).astype(np.float32)
        values, scale = _with_room(values, scale, least)
        bias_scale = (scale * step).astype(np.float32)
        bias_values = np.rint(bias / bias_scale).astype(np.int32)
        return [
            self._stored(node.input[1], values, scale, axis=0),
            self._stored(node.input[2], bias_values, bias_scale, axis=0),
        ]

    def _factor(self, node: Any) -> str:
        """The dequantised second factor of a matrix product."""
        values, scale, _ = self._integers[node.name]
        return self._stored(node.input[1], np.ascontiguousarray(values.T), scale, axis=1)

    def _stored(
        self, name: str, values: npt.NDArray[Any], scales: npt.NDArray[np.float32], axis: int
    ) -> str:
        zeros = np.zeros(len(scales), values.dtype)
        parts = [
            self._constant(f"{name}.q", values),
            self._constant(f"{name}.scale", scales),
            self._constant(f"{name}.zero", zeros),
        ]
        self._node("DequantizeLinear", parts, f"{name}.dq", axis=axis)
        return f"{name}.dq"

    def _dequantize(self, quantized: str, output: str) -> None:
        tensor = output.removesuffix(".dq")
        self._node("DequantizeLinear", [quantized, *self._scale(tensor)], output)

    def _scale(self, tensor: str) -> list[str]:
        found = self._ranges[tensor]
        return [
            self._constant(f"{tensor}.scale", np.asarray(found.scale, np.float32)),
            self._constant(f"{tensor}.zero", np.asarray(found.zero_point, np.uint8)),
        ]

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(
            self._onnx.helper.make_node(
                kind, inputs, [output], name=f"{output}:{kind}", **attributes
            )
        )
