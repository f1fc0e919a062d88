"""Exact rewrites of float graphs that make ONNX Runtime's int8 kernels faster and more accurate.

Both are applied before calibration and pay only in int8; a float network is faster without them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.zoo.graphs.edit import ACTIVATIONS, GraphBuilder, attributes, clone, consumers_of
from pipeline.zoo.onnx_file import ModelProto

Floats = npt.NDArray[np.float32]

_SIDE_BY_SIDE = 4
_PASSING = ("Flatten", "Reshape", "Squeeze", "Identity", "Softmax")
"""Nodes that may follow the last layer of a network."""


def widen_stem(model: ModelProto) -> ModelProto:
    """Return a copy whose first convolution reads four neighbouring pixels at once, if possible.

    Integer kernels process channels in fours and are slow on the three channels of an image. Four
    pixels of a row are twelve contiguous numbers, so reading them as one pixel of twelve channels
    is free. The convolution (3x3, stride 2) then computes the two output pixels of the group as
    one pixel of twice the channels, which is reshaped back to two. The graph is unchanged if the
    width is not a multiple of four or the first convolution has another shape.
    """
    result = clone(model)
    conv, activation = _first_convolution(result.graph)
    dims = result.graph.input[0].type.tensor_type.shape.dim
    height, width = dims[1].dim_value, dims[2].dim_value
    if conv is None or width % _SIDE_BY_SIDE:
        return result
    builder = GraphBuilder(result)
    _write_wide_stem(builder, result.graph.input[0].name, height, width, conv, activation)
    outputs = [node.output[0] for node in result.graph.node]
    behind = outputs.index((activation or conv).output[0]) + 1
    builder.nodes += list(result.graph.node)[behind:]
    builder.store(result)
    return result


def _first_convolution(graph: Any) -> tuple[Any, Any]:
    """Return the first convolution if it is 3x3 of stride 2, and the activation after it."""
    nodes = {node.input[0]: node for node in graph.node}
    node, kinds = nodes[graph.input[0].name], []
    while node.op_type in ("Transpose", "Cast"):
        kinds.append(node.op_type)
        node = nodes[node.output[0]]
    expected = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "group": 1}
    if node.op_type != "Conv" or kinds != ["Transpose", "Cast"] or attributes(node) != expected:
        return None, None
    following = consumers_of(graph.node).get(node.output[0], [])
    if len(following) == 1 and following[0].op_type in ACTIVATIONS:
        return node, following[0]
    return node, None


def _write_wide_stem(
    builder: GraphBuilder, entry: str, height: int, width: int, conv: Any, activation: Any | None
) -> None:
    """Write the convolution and its activation over groups of pixels, and ungroup the output."""
    weight, bias = (builder.arrays[name] for name in conv.input[1:3])
    out_channels, in_channels = weight.shape[:2]
    grouped = [0, height, width // _SIDE_BY_SIDE, _SIDE_BY_SIDE * in_channels]
    builder.shape("stem.in", grouped)
    builder.shape("stem.out", [0, (height + 1) // 2, width // 2, out_channels])
    builder.constant("stem.weight", _widened(weight))
    builder.constant("stem.bias", np.tile(bias, _SIDE_BY_SIDE // 2))
    builder.add("Reshape", [entry, "stem.in"], "stem.grouped")
    builder.add("Transpose", ["stem.grouped"], "stem.pixels", perm=[0, 3, 1, 2])
    builder.add("Cast", ["stem.pixels"], "stem.float", to=builder.onnx.TensorProto.FLOAT)
    tensor = builder.add(
        "Conv", ["stem.float", "stem.weight", "stem.bias"], "stem.linear",
        kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, height % 2, 0],
    )  # fmt: skip
    if activation:
        tensor = builder.add_copy(activation, tensor, "stem.active")
    builder.add("Transpose", [tensor], "stem.rows", perm=[0, 2, 3, 1])
    builder.add("Reshape", ["stem.rows", "stem.out"], "stem.split")
    final = (activation or conv).output[0]
    builder.add("Transpose", ["stem.split"], final, perm=[0, 3, 1, 2])


def _widened(weight: Floats) -> Floats:
    """Return weights (2 * out, 12, 3, 2): output o of a group reads columns 2o-1 to 2o+1."""
    out_channels, in_channels = weight.shape[:2]
    outputs = _SIDE_BY_SIDE // 2
    wide = np.zeros((outputs, out_channels, _SIDE_BY_SIDE, in_channels, 3, 2), np.float32)
    for output in range(outputs):
        for kernel_column in range(3):
            column = 2 * output + kernel_column - 1
            group = 0 if column < 0 else 1  # the group before, or this one
            wide[output, :, column % _SIDE_BY_SIDE, :, :, group] = weight[..., kernel_column]
    return wide.reshape(outputs * out_channels, _SIDE_BY_SIDE * in_channels, 3, 2)


def heads_as_products(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a copy whose last linear layers are matrix products, and the nodes to keep in float.

    A last layer is one that only changes of shape and softmax follow. ONNX Runtime has an integer
    matrix product with float output, but no such convolution: as products, the outputs are computed
    from int8 without being rounded to 256 levels themselves.
    """
    result = clone(model)
    builder = GraphBuilder(result)
    keep_float: list[str] = []
    replaced = set()
    for layer, behind in _output_layers(result.graph, builder):
        head = layer.output[0]
        if layer.op_type == "Add" or (layer.op_type == "Conv" and not _is_pointwise(layer)):
            keep_float += [layer.name, *behind]
            continue
        if layer.op_type == "Conv":
            _write_convolution(builder, layer)
        else:
            _write_gemm(builder, layer)
        keep_float += [f"{head}.sum", head, *behind]
        replaced.add(head)
    kept = [node for node in result.graph.node if node.output[0] not in replaced]
    builder.nodes = [*kept, *builder.nodes]
    builder.store(result)
    return result, keep_float


def _output_layers(graph: Any, builder: GraphBuilder) -> list[tuple[Any, list[str]]]:
    """Return the last layer before each output, and the names of the nodes after it.

    For a matrix product followed by a sum, the layer is the sum.
    """
    makers = {node.output[0]: node for node in graph.node}
    found = {}
    for value in graph.output:
        node, behind = makers.get(value.name), []
        while node is not None and node.op_type in _PASSING:
            behind.append(node.name)
            node = makers.get(node.input[0])
        if node is not None and _is_layer(node, makers, builder):
            found[node.output[0]] = node, behind
    return [found[node.output[0]] for node in graph.node if node.output[0] in found]


def _is_layer(node: Any, makers: dict[str, Any], builder: GraphBuilder) -> bool:
    if node.op_type == "Add" and node.input[1] in builder.arrays:
        product = makers.get(node.input[0])
        return product is not None and product.op_type == "MatMul"
    return node.op_type in ("Conv", "Gemm")


def _is_pointwise(conv: Any) -> bool:
    """Return whether a convolution processes each pixel separately."""
    expected = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "group": 1}
    return attributes(conv) == expected


def _write_convolution(builder: GraphBuilder, conv: Any) -> None:
    """Write a 1x1 convolution as a product of channels-last rows."""
    head = conv.output[0]
    weight, bias = (builder.arrays[name] for name in conv.input[1:3])
    builder.constant(f"{head}.weight", np.ascontiguousarray(weight[:, :, 0, 0].T))
    builder.constant(f"{head}.bias", bias)
    builder.add("Transpose", [conv.input[0]], f"{head}.rows", perm=[0, 2, 3, 1])
    _write_product(builder, head)
    builder.add("Transpose", [f"{head}.sum"], head, perm=[0, 3, 1, 2])


def _write_gemm(builder: GraphBuilder, gemm: Any) -> None:
    """Write a product of rank 3: a product of rank 2 would be fused with its sum and rounded."""
    head = gemm.output[0]
    weight, bias = (builder.arrays[name] for name in gemm.input[1:3])
    builder.constant(f"{head}.weight", np.ascontiguousarray(weight.T))
    builder.constant(f"{head}.bias", bias)
    builder.shape(f"{head}.rows.shape", [-1, 1, weight.shape[1]])
    builder.add("Reshape", [gemm.input[0], f"{head}.rows.shape"], f"{head}.rows")
    _write_product(builder, head)
    builder.add("Flatten", [f"{head}.sum"], head)


def _write_product(builder: GraphBuilder, head: str) -> None:
    builder.add("MatMul", [f"{head}.rows", f"{head}.weight"], f"{head}.product")
    builder.add("Add", [f"{head}.product", f"{head}.bias"], f"{head}.sum")
