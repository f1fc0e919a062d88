"""Count of the parameters and multiply-adds of an ONNX graph.

Works for any float or int8 graph (QDQ or integer operators):

- Parameters are the constant inputs of convolutions, matrix products, normalisations and sums, not
  scales, zero points, shapes and bounds. Batch norm folded into a convolution leaves one number per
  channel, its bias; papers count up to two (and some tables none).
- Multiply-adds (MACs) are those of convolutions and matrix products. Sums, activations and pooling
  are not counted, as is usual; nor are the bodies of If, Loop and Scan.
- The first convolution of models built by this package may read several pixels of a row at once,
  with zeros among its weights. It is counted as the plain convolution that it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from pipeline.zoo.onnx_file import IR_VERSION, ModelProto, require_onnx

Shape = tuple[int, ...]

_COLORS = 3
_WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "BatchNormalization"), (1, 2)),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "GroupNormalization"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    **dict.fromkeys(("ConvInteger", "PRelu"), (1,)),
    **dict.fromkeys(("MatMul", "MatMulInteger"), (0, 1)),
    "QLinearConv": (3, 8),
    "Gemm": (0, 1, 2),
    "QGemm": (0, 3, 6),
    "QLinearMatMul": (0, 3),
    "Gather": (0,),
}
"""Inputs that are parameters if they are constants, by kind of node."""
_SUMS = {**dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)), "QLinearAdd": (0, 3)}
"""The same, except that a single number is a setting."""
_FORWARDING = (
    *("DequantizeLinear", "QuantizeLinear", "Cast", "Identity"),
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"),
)
"""Nodes that forward a parameter from their first input."""
_FACTORS = {"Gemm": 0, "QGemm": 0, "MatMul": 0, "MatMulInteger": 0, "QLinearMatMul": 0}
_KERNELS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_STAND_INS = {
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QGemm": ("Gemm", (0, 3)),
}
"""ONNX Runtime's own operators: the standard one with the same output shape, and its inputs."""
_LONGEST_SETTING = 1024  # larger constants are weights and do not influence shapes


class Cost(NamedTuple):
    """Parameters, and multiply-adds of one image (None if sizes are unknown)."""

    parameters: int
    multiply_adds: int | None


def count_cost(model: ModelProto) -> Cost:
    """Return the cost of a graph; an open batch size counts as one.

    Raises `DependencyError` if the onnx package is not installed.
    """
    network = _Network(require_onnx(), model)
    return Cost(network.parameters(), network.multiply_adds())


class _Network:
    """A graph with its constants and the shapes of its tensors."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx = onnx
        self._graph = model.graph
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._constants: dict[str, Shape] = {
            tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer
        }
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = tuple(node.attribute[0].t.dims)
        self._shapes = {**_infer_shapes(onnx, model), **self._constants}
        self._pixels = {
            value.name
            for value in model.graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }

    def parameters(self) -> int:
        counted: dict[str, int] = {}
        for node in self._graph.node:
            is_sum = node.op_type in _SUMS
            packed = self._packed_pixels(node)
            for index in (*_WEIGHTS.get(node.op_type, ()), *_SUMS.get(node.op_type, ())):
                name = self._constant_before(node, index)
                if name is None or (is_sum and prod(self._constants[name]) == 1):
                    continue
                shape = self._constants[name]
                counted[name] = _plain_size(shape, packed) if packed else prod(shape)
        return sum(counted.values())

    def multiply_adds(self) -> int | None:
        total = 0
        for node in self._graph.node:
            if node.op_type in _KERNELS or node.op_type in _FACTORS:
                outputs = self._shape(node.output[0])
                taps = self._taps(node)
            elif node.op_type == "ConvTranspose":
                outputs = self._shape(node.input[0])
                kernel = self._shape(node.input[1])
                taps = None if kernel is None else prod(kernel[1:])
            else:
                continue
            if outputs is None or taps is None:
                return None
            total += prod(outputs) * taps
        return total

    def _taps(self, node: Any) -> int | None:
        """Return how many products one number of the output is the sum of."""
        if node.op_type in _KERNELS:
            kernel = self._shape(node.input[_KERNELS[node.op_type]])
            if kernel is None:
                return None
            return _COLORS * kernel[2] ** 2 if self._packed_pixels(node) else prod(kernel[1:])
        first = self._shape(node.input[0])
        if not first:
            return None
        is_turned = any(a.name == "transA" and a.i for a in node.attribute)
        return first[0] if is_turned else first[-1]

    def _shape(self, name: str) -> Shape | None:
        return self._shapes.get(name)

    def _constant_before(self, node: Any, index: int) -> str | None:
        """Return the constant of input `index`, which may be dequantised or reshaped before it."""
        name = node.input[index] if index < len(node.input) else ""
        while name and name not in self._constants:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in _FORWARDING:
                return None
            name = maker.input[0]
        return name or None

    def _packed_pixels(self, node: Any) -> int:
        """Return how many output pixels a convolution of packed pixels computes at once, else 0."""
        if node.op_type != "Conv":
            return 0
        name = node.input[0]
        while name not in self._pixels:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in (*_FORWARDING, "Pad"):
                return 0
            if maker.op_type == "Reshape" and maker.input[0] in self._pixels:
                before, after = self._shape(maker.input[0]), self._shape(maker.output[0])
                if before is None or after is None or before[-1] != _COLORS:
                    return 0
                stride = next((a.ints[0] for a in node.attribute if a.name == "strides"), 1)
                return after[-1] // _COLORS // int(stride)
            name = maker.input[0]
        return 0


def _plain_size(shape: Shape, outputs: int) -> int:
    """Return the plain size of packed weights (outputs * n, ..., k, ...) or biases.

    The plain weights are n kernels of k x k over three colours.
    """
    kernels = shape[0] // outputs
    return kernels * _COLORS * shape[2] ** 2 if len(shape) > 1 else kernels


def _infer_shapes(onnx: Any, model: Any) -> dict[str, Shape]:
    """Return the known shapes of tensors for a batch of one."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(onnx, model), data_prop=True)
    except onnx.shape_inference.InferenceError:
        return {}  # the graph is inconsistent, which is reported when it is run
    graph = inferred.graph
    return dict(_known((*graph.input, *graph.value_info, *graph.output)))


def _known(values: Any) -> Iterator[tuple[str, Shape]]:
    for value in values:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            yield value.name, tuple(dim.dim_value for dim in kind.shape.dim)


def _without_weights(onnx: Any, model: Any) -> Any:
    """Return a copy for shape inference: batch of one, weights as inputs, standard nodes only."""
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    graph.output.extend(model.graph.output)
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            dims = graph.input.add(name=value.name)
            dims.CopyFrom(value)
            shape = dims.type.tensor_type.shape
            if shape.dim and not shape.dim[0].dim_value:
                shape.dim[0].dim_value = 1
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _LONGEST_SETTING:
            graph.initializer.append(tensor)
        else:
            value_info = onnx.helper.make_tensor_value_info
            graph.input.append(value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    graph.node.extend(_stand_in(onnx, node) for node in model.graph.node)
    return onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=IR_VERSION
    )


def _stand_in(onnx: Any, node: Any) -> Any:
    if node.op_type not in _STAND_INS:
        return node
    kind, inputs = _STAND_INS[node.op_type]
    copy = onnx.helper.make_node(kind, [node.input[i] for i in inputs], list(node.output))
    known = ("transA", "transB")
    copy.attribute.extend(a for a in node.attribute if a.name in known and kind == "Gemm")
    return copy
