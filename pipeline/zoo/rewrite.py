"""Two rewrites of a float graph, exact in themselves, that suit ONNX Runtime's int8 kernels better.

Both are made before calibration, because they only pay in int8: a float network is best as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.zoo.onnx_file import require_onnx

if TYPE_CHECKING:
    import onnx

_SIDE_BY_SIDE = 4

Floats = npt.NDArray[np.float32]


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
    graph = _Graph(onnx, result)
    conv, activation = graph.first_convolution()
    height, width = graph.input_size()
    if conv is None or width % _SIDE_BY_SIDE:
        return result
    weight, bias = graph.array(conv.input[1]), graph.array(conv.input[2])
    out_channels, in_channels = weight.shape[:2]
    outputs = _SIDE_BY_SIDE // 2
    rows, columns = (height + 1) // 2, width // 2
    name = conv.output[0]
    behind = 0 if height % 2 == 0 else 1
    final = activation.output[0] if activation else name
    graph.constant("stem.in", [0, height, width // _SIDE_BY_SIDE, _SIDE_BY_SIDE * in_channels])
    graph.constant("stem.out", [0, rows, columns, out_channels])
    graph.constant("stem.weight", _widened(weight))
    graph.constant("stem.bias", np.tile(bias, outputs))
    graph.node("Reshape", [graph.input, "stem.in"], "stem.grouped")
    graph.node("Transpose", ["stem.grouped"], "stem.pixels", perm=[0, 3, 1, 2])
    graph.node("Cast", ["stem.pixels"], "stem.float", to=onnx.TensorProto.FLOAT)
    graph.node(
        "Conv",
        ["stem.float", "stem.weight", "stem.bias"],
        "stem.linear",
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 1, behind, 0],
    )
    tensor = "stem.linear"
    if activation:
        tensor = graph.again(activation, tensor, "stem.active")
    graph.node("Transpose", [tensor], "stem.rows", perm=[0, 2, 3, 1])
    graph.node("Reshape", ["stem.rows", "stem.out"], "stem.split")
    graph.node("Transpose", ["stem.split"], final, perm=[0, 3, 1, 2])
    graph.finish(first=True, without=graph.up_to(activation or conv))
    return result


def heads_as_products(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy whose last 1x1 convolutions are matrix products; and the nodes to keep in float.

    ONNX Runtime has an integer matrix product with float output and no such convolution: this way
    the heads are computed from int8 without being rounded to 256 levels themselves.
    """
    onnx = require_onnx()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = _Graph(onnx, result)
    keep_float: list[str] = []
    replaced = set()
    for conv in graph.output_convolutions():
        head = conv.output[0]
        if not graph.is_pointwise(conv):
            keep_float.append(conv.name)
            continue
        weight, bias = graph.array(conv.input[1]), graph.array(conv.input[2])
        graph.constant(f"{head}.weight", np.ascontiguousarray(weight[:, :, 0, 0].T))
        graph.constant(f"{head}.bias", bias)
        graph.node("Transpose", [conv.input[0]], f"{head}.rows", perm=[0, 2, 3, 1])
        graph.node("MatMul", [f"{head}.rows", f"{head}.weight"], f"{head}.product")
        graph.node("Add", [f"{head}.product", f"{head}.bias"], f"{head}.sum")
        graph.node("Transpose", [f"{head}.sum"], head, perm=[0, 3, 1, 2])
        keep_float += [f"{head}.sum", head]
        replaced.add(head)
    graph.finish(first=False, without=replaced)
    return result, keep_float


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


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: list(a.ints) if a.ints else a.i for a in node.attribute}


class _Graph:
    """Looks into a graph, and collects what is to be added to it."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._added: list[Any] = []
        self.input: str = model.graph.input[0].name

    def input_size(self) -> tuple[int, int]:
        dims = self._graph.input[0].type.tensor_type.shape.dim
        return dims[1].dim_value, dims[2].dim_value

    def array(self, name: str) -> Floats:
        array: Floats = self._onnx.numpy_helper.to_array(self._constants[name])
        return array

    def first_convolution(self) -> tuple[Any, Any]:
        """The convolution of the pixels if it is 3x3 with stride 2, and the activation after it."""
        nodes = {node.input[0]: node for node in self._graph.node}
        node, kinds = nodes[self.input], []
        while node.op_type in ("Transpose", "Cast"):
            kinds.append(node.op_type)
            node = nodes[node.output[0]]
        expected = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "group": 1}
        if node.op_type != "Conv" or kinds != ["Transpose", "Cast"]:
            return None, None
        if _attributes(node) != expected:
            return None, None
        following = [other for other in self._graph.node if node.output[0] in other.input]
        if len(following) == 1 and following[0].op_type in ("LeakyRelu", "Relu", "Clip"):
            return node, following[0]
        return node, None

    def output_convolutions(self) -> list[Any]:
        outputs = {value.name for value in self._graph.output}
        return [
            node
            for node in self._graph.node
            if node.op_type == "Conv" and node.output[0] in outputs
        ]

    def is_pointwise(self, conv: Any) -> bool:
        """Whether a convolution looks at each pixel on its own."""
        expected = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "group": 1}
        return _attributes(conv) == expected

    def up_to(self, last: Any) -> set[str]:
        """The first outputs of all nodes up to and including `last`."""
        names = [node.output[0] for node in self._graph.node]
        return set(names[: names.index(last.output[0]) + 1])

    def constant(self, name: str, value: Any) -> None:
        array = np.asarray(value, np.int64) if isinstance(value, list) else value
        self._constants[name] = self._onnx.numpy_helper.from_array(array, name)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._added.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )

    def again(self, node: Any, tensor: str, output: str) -> str:
        """The same node on another tensor."""
        copy = self._onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[0], copy.output[0] = output, tensor, output
        self._added.append(copy)
        return output

    def finish(self, *, first: bool, without: set[str]) -> None:
        """Put the new nodes first or last, drop those that made `without`, and unused constants."""
        kept = [node for node in self._graph.node if node.output[0] not in without]
        nodes = [*self._added, *kept] if first else [*kept, *self._added]
        copies = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        used = {name for node in copies for name in node.input}
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        constants = [self._onnx.TensorProto.FromString(t.SerializeToString()) for t in constants]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(copies)
        self._graph.initializer.extend(constants)
