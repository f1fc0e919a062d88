"""Rewriting of a float network with quantise/dequantise (QDQ) pairs around its nodes.

ONNX Runtime fuses each wrapped node into its integer kernel. uint8 pixels are used as quantised
values directly, without a float image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.zoo.graphs.edit import GraphBuilder, clone, consumers_of
from pipeline.zoo.onnx_file import ModelProto
from pipeline.zoo.quantization.calibration import Range
from pipeline.zoo.quantization.rounding import QuantizedWeight

_UINT8 = 2  # number of the type in the ONNX format
_LARGEST_BIAS = 2.0**30  # in units of its scale; leaves room for the sum of products
PIXEL_RANGE = Range(0.0, 255.0)

_WEIGHTED = ("Conv", "Gemm")
_PRODUCT = "MatMul"
"""The node with weights (in, out) as second input, without bias, and with float output."""
_SCALE_KEEPING = (
    *("MaxPool", "Slice", "Resize", "Flatten", "Reshape", "Transpose", "Concat", "Identity"),
)
"""Nodes that only move values: input and output share one scale at no cost."""
_COMPUTING = (*_WEIGHTED, _PRODUCT, "LeakyRelu", "Add", "GlobalAveragePool", "Clip", "Relu")
_CLIPPING = ("Clip", "Relu")
"""Nodes fused into the convolution before them, whose output range does the clipping."""


class QuantizationPlan:
    """The nodes of a float graph to quantise, and the tensors that get a scale."""

    def __init__(self, model: ModelProto, keep_float: Collection[str] = ()) -> None:
        graph = model.graph
        self._nodes = list(graph.node)
        self._constants = {tensor.name for tensor in graph.initializer}
        self._consumers = consumers_of(self._nodes)
        self.pixels: set[str] = set()
        kinds = {*_COMPUTING, *_SCALE_KEEPING}
        uint8 = {value.name for value in graph.input if value.type.tensor_type.elem_type == _UINT8}
        self._quantized: list[Any] = []
        for node in self._nodes:
            if node.input and node.input[0] in uint8:
                # Nodes that read raw pixels are integer kernels already.
                (self.pixels if node.op_type == "Cast" else uint8).add(node.output[0])
            elif node.op_type in kinds and node.name not in keep_float:
                self._quantized.append(node)
        self.nodes = {node.name for node in self._quantized}
        self.tensors = self._find_tensors()

    @property
    def weighted(self) -> list[Any]:
        """The quantised nodes with weights, in order."""
        kinds = (*_WEIGHTED, _PRODUCT)
        return [node for node in self._quantized if node.op_type in kinds]

    @property
    def clipped(self) -> list[str]:
        """Outputs without a scale of their own, because a clipping node follows directly."""
        return [node.output[0] for node in self._quantized if self._is_clipped(node)]

    @property
    def layers(self) -> dict[str, list[str]]:
        """The layers that may stay in float, in order: their nodes by the name of the first.

        A layer is a computing node and the nodes after it that clip or forward its output.
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
        """Return the constant that is added to the products of a node with weights."""
        if node.op_type in _WEIGHTED:
            return str(node.input[2])
        (addition,) = self._consumers[node.output[0]]
        return str(addition.input[1])

    def weight_of(self, node: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the weight of a node as (outputs, inputs, ...)."""
        weight = arrays[node.input[1]]
        return weight.T if node.op_type == _PRODUCT else weight

    def activations(self, node: Any) -> list[str]:
        """Return the inputs of a node that are activations, not weights or settings."""
        takes_many = node.op_type in ("Concat", "Add") or node.name not in self.nodes
        names = node.input if takes_many else node.input[:1]
        return [name for name in names if name not in self._constants]

    def slope_after(self, tensor: str) -> float:
        """Return the slope of a LeakyRelu that alone reads a tensor, else 1."""
        consumers = self._consumers.get(tensor, [])
        if len(consumers) == 1 and consumers[0].op_type == "LeakyRelu":
            return float(consumers[0].attribute[0].f)
        return 1.0

    def share(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """Give tensors that are joined by scale-keeping nodes the widest range among them."""
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
        """Return inputs and outputs of quantised nodes, except before a clipping node."""
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
    model: ModelProto,
    plan: QuantizationPlan,
    ranges: Mapping[str, Range],
    weights: Mapping[str, QuantizedWeight],
) -> ModelProto:
    """Return a copy with the planned nodes wrapped in QDQ pairs.

    `ranges` holds one range per planned tensor, `weights` the integers of each planned node with
    weights, by its name; their changes of biases are applied too.
    """
    builder = _QdqBuilder(model, plan, ranges, weights)
    builder.write()
    result = clone(model)
    builder.store(result)
    return result


def _with_room(
    values: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], least: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Enlarge scales below `least`, so that the bias fits its integer.

    This concerns channels with tiny weights, whose output is almost only their bias.
    """
    if not (scale < least).any():
        return values, scale
    wider = np.maximum(scale, least).astype(np.float32)
    shrunk = values * (scale / wider).reshape(-1, *[1] * (values.ndim - 1))
    return np.rint(shrunk).astype(np.int8), wider


class _QdqBuilder(GraphBuilder):
    def __init__(
        self,
        model: ModelProto,
        plan: QuantizationPlan,
        ranges: Mapping[str, Range],
        weights: Mapping[str, QuantizedWeight],
    ) -> None:
        super().__init__()
        self._plan = plan
        self._ranges = {**ranges, **dict.fromkeys(plan.pixels, PIXEL_RANGE)}
        self._source = list(model.graph.node)
        self._outputs = {value.name for value in model.graph.output}
        self._floats = GraphBuilder(model).arrays
        self._integers = weights
        self._bias_changes = {
            plan.bias_of(node): weights[node.name].bias_change for node in plan.weighted
        }

    def write(self) -> None:
        for node in self._source:
            if node.op_type == "Cast" and node.output[0] in self._plan.pixels:
                self._dequantize(node.input[0], node.output[0])
            else:
                self._copy(node)

    def _copy(self, node: Any) -> None:
        copy = clone(node)
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
            self._add("QuantizeLinear", [f"{output}.float", *self._scale(output)], f"{output}.q")
            target = output if output in self._outputs else f"{output}.dq"
            self._dequantize(f"{output}.q", target)

    def _dequantized(self, name: str) -> str:
        if name in self._plan.pixels or name not in self._ranges or name in self._outputs:
            return name
        return f"{name}.dq"

    def _keep(self, name: str) -> str:
        if name in self._bias_changes:
            self.constant(name, self._bias(name))
        elif name in self._floats:
            self.constant(name, self._floats[name])
        return name

    def _bias(self, name: str) -> npt.NDArray[np.float32]:
        bias: npt.NDArray[np.float32] = self._floats[name] + self._bias_changes[name]
        return bias

    def _weights(self, node: Any) -> list[str]:
        """Store the weight and bias of a node as int8 and int32; returns them dequantised."""
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
        """Store the second factor of a matrix product; returns it dequantised."""
        values, scale, _ = self._integers[node.name]
        return self._stored(node.input[1], np.ascontiguousarray(values.T), scale, axis=1)

    def _stored(
        self, name: str, values: npt.NDArray[Any], scales: npt.NDArray[np.float32], axis: int
    ) -> str:
        parts = [
            self.constant(f"{name}.q", values),
            self.constant(f"{name}.scale", scales),
            self.constant(f"{name}.zero", np.zeros(len(scales), values.dtype)),
        ]
        return self._add("DequantizeLinear", parts, f"{name}.dq", axis=axis)

    def _dequantize(self, quantized: str, output: str) -> None:
        tensor = output.removesuffix(".dq")
        self._add("DequantizeLinear", [quantized, *self._scale(tensor)], output)

    def _scale(self, tensor: str) -> list[str]:
        found = self._ranges[tensor]
        return [
            self.constant(f"{tensor}.scale", np.asarray(found.scale, np.float32)),
            self.constant(f"{tensor}.zero", np.asarray(found.zero_point, np.uint8)),
        ]

    def _add(self, kind: str, inputs: list[str], output: str, **settings: Any) -> str:
        return self.add(kind, inputs, output, f"{output}:{kind}", **settings)
