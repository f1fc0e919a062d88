"""Two rewrites of a float graph, exact in themselves, that suit ONNX Runtime's int8 kernels better.

Both are made before calibration, because they only pay in int8: a float network is best as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.zoo.graphs.edit import Floats, GraphEdit
from pipeline.zoo.onnx_file import require_onnx

if TYPE_CHECKING:
    import onnx

_SIDE_BY_SIDE = 4


def widen_stem(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose first convolution works on four neighbouring pixels at once, where it can.

    Integer kernels handle channels in fours and have a slow path for the three of a picture. Four
    pixels of a row are twelve numbers in a row of memory, so reading them as one pixel of twelve
    channels costs nothing; the convolution (3x3, stride 2) then gives both output pixels that lie
    there as one of twice the channels, which is read back as two. A picture whose width four does
    not divide, and any other first convolution, is left as it is.
    """
    onnx = require_onnx()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = GraphEdit(result)
    conv, activation = graph.first_convolution()
    _, width = graph.input_size()
    if conv is not None and width % _SIDE_BY_SIDE == 0:
        _write_wide_stem(graph, conv, activation)
        graph.finish(first=True, without=graph.up_to(activation or conv))
    return result


def _write_wide_stem(graph: GraphEdit, conv: Any, activation: Any | None) -> None:
    """The convolution and its activation on groups of pixels, read back as single ones."""
    height, width = graph.input_size()
    weight, bias = graph.array(conv.input[1]), graph.array(conv.input[2])
    out_channels, in_channels = weight.shape[:2]
    grouped = [0, height, width // _SIDE_BY_SIDE, _SIDE_BY_SIDE * in_channels]
    graph.constant("stem.in", grouped)
    graph.constant("stem.out", [0, (height + 1) // 2, width // 2, out_channels])
    graph.constant("stem.weight", _widened(weight))
    graph.constant("stem.bias", np.tile(bias, _SIDE_BY_SIDE // 2))
    graph.node("Reshape", [graph.input, "stem.in"], "stem.grouped")
    graph.node("Transpose", ["stem.grouped"], "stem.pixels", perm=[0, 3, 1, 2])
    graph.node("Cast", ["stem.pixels"], "stem.float", to=require_onnx().TensorProto.FLOAT)
    graph.node(
        "Conv",
        ["stem.float", "stem.weight", "stem.bias"],
        "stem.linear",
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 1, height % 2, 0],
    )
    tensor = "stem.linear"
    if activation:
        tensor = graph.again(activation, tensor, "stem.active")
    graph.node("Transpose", [tensor], "stem.rows", perm=[0, 2, 3, 1])
    graph.node("Reshape", ["stem.rows", "stem.out"], "stem.split")
    final = (activation or conv).output[0]
    graph.node("Transpose", ["stem.split"], final, perm=[0, 3, 1, 2])


def heads_as_products(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy whose last linear layers are matrix products; and the nodes to keep in float.

    Last layers are those that nothing but changes of shape and softmax follow. ONNX Runtime has an
    integer matrix product with float output, and no such convolution: this way the answers are
    computed from int8 without being rounded to 256 levels themselves.
    """
    onnx = require_onnx()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = GraphEdit(result)
    keep_float: list[str] = []
    replaced = set()
    for layer, behind in graph.output_layers():
        head = layer.output[0]
        if layer.op_type == "Add" or (layer.op_type == "Conv" and not graph.is_pointwise(layer)):
            keep_float += [layer.name, *behind]
            continue
        if layer.op_type == "Conv":
            _write_convolution(graph, layer)
        else:
            _write_gemm(graph, layer)
        keep_float += [f"{head}.sum", head, *behind]
        replaced.add(head)
    graph.finish(first=False, without=replaced)
    return result, keep_float


def _write_convolution(graph: GraphEdit, conv: Any) -> None:
    """A 1x1 convolution as a product of channels-last rows."""
    head = conv.output[0]
    weight, bias = graph.array(conv.input[1]), graph.array(conv.input[2])
    graph.constant(f"{head}.weight", np.ascontiguousarray(weight[:, :, 0, 0].T))
    graph.constant(f"{head}.bias", bias)
    graph.node("Transpose", [conv.input[0]], f"{head}.rows", perm=[0, 2, 3, 1])
    graph.node("MatMul", [f"{head}.rows", f"{head}.weight"], f"{head}.product")
    graph.node("Add", [f"{head}.product", f"{head}.bias"], f"{head}.sum")
    graph.node("Transpose", [f"{head}.sum"], head, perm=[0, 3, 1, 2])


def _write_gemm(graph: GraphEdit, gemm: Any) -> None:
    """A product of rank 3: one of rank 2 would be joined with its sum and rounded after all."""
    head = gemm.output[0]
    weight, bias = graph.array(gemm.input[1]), graph.array(gemm.input[2])
    graph.constant(f"{head}.weight", np.ascontiguousarray(weight.T))
    graph.constant(f"{head}.bias", bias)
    graph.constant(f"{head}.rows.shape", [-1, 1, weight.shape[1]])
    graph.node("Reshape", [gemm.input[0], f"{head}.rows.shape"], f"{head}.rows")
    graph.node("MatMul", [f"{head}.rows", f"{head}.weight"], f"{head}.product")
    graph.node("Add", [f"{head}.product", f"{head}.bias"], f"{head}.sum")
    graph.node("Flatten", [f"{head}.sum"], head)


def _widened(weight: Floats) -> Floats:
    """Weights (2 * out, 12, 3, 2): output pixel o of a group looks at columns 2o-1 to 2o+1."""
    out_channels, in_channels = weight.shape[:2]
    outputs = _SIDE_BY_SIDE // 2
    wide = np.zeros((outputs, out_channels, _SIDE_BY_SIDE, in_channels, 3, 2), np.float32)
    for output in range(outputs):
        for kernel_column in range(3):
            column = 2 * output + kernel_column - 1
            group = 0 if column < 0 else 1  # the group before, or this one
            wide[output, :, column % _SIDE_BY_SIDE, :, :, group] = weight[..., kernel_column]
    return wide.reshape(outputs * out_channels, _SIDE_BY_SIDE * in_channels, 3, 2)
