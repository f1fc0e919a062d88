"""Looking into an ONNX graph and changing it: what all rewrites share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.zoo.onnx_file import require_onnx

Floats = npt.NDArray[np.float32]

ACTIVATIONS = ("LeakyRelu", "Relu", "Clip")
"""What ONNX Runtime's integer convolution can do on its way, or at once after it."""
_PASSING = ("Flatten", "Reshape", "Squeeze", "Identity", "Softmax")
"""What may stand between a network's last layer and its answer."""


def attributes(node: Any) -> dict[str, Any]:
    """Whole numbers and lists of them that a node is set up with."""
    return {a.name: list(a.ints) if a.ints else a.i for a in node.attribute}


def in_order(nodes: list[Any]) -> list[Any]:
    """The nodes, each after those that make its inputs; otherwise as they come."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    ordered: dict[int, Any] = {}
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            index = waiting[-1]
            before = {makers[name] for name in nodes[index].input if name in makers} - {index}
            if missing := sorted(before - set(ordered)):
                waiting += missing[:1]
            else:
                ordered.setdefault(index, nodes[index])
                waiting.pop()
    return list(ordered.values())


class GraphEdit:
    """Looks into the graph of `model`, and collects what is to be added to it."""

    def __init__(self, model: Any) -> None:
        self._onnx: Any = require_onnx()
        self._graph = model.graph
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
        if attributes(node) != expected:
            return None, None
        following = [other for other in self._graph.node if node.output[0] in other.input]
        if len(following) == 1 and following[0].op_type in ACTIVATIONS:
            return node, following[0]
        return node, None

    def output_layers(self) -> list[tuple[Any, list[str]]]:
        """The last layer before each output of the network, and the names of nodes behind it.

        Of a matrix product and a sum the layer is the sum.
        """
        makers = {node.output[0]: node for node in self._graph.node}
        found = {}
        for value in self._graph.output:
            node, behind = makers.get(value.name), []
            while node is not None and node.op_type in _PASSING:
                behind.append(node.name)
                node = makers.get(node.input[0])
            if node is not None and self._is_layer(node, makers):
                found[node.output[0]] = node, behind
        return [found[node.output[0]] for node in self._graph.node if node.output[0] in found]

    def _is_layer(self, node: Any, makers: dict[str, Any]) -> bool:
        if node.op_type == "Add" and node.input[1] in self._constants:
            product = makers.get(node.input[0])
            return product is not None and product.op_type == "MatMul"
        return node.op_type in ("Conv", "Gemm")

    def is_pointwise(self, conv: Any) -> bool:
        """Whether a convolution looks at each pixel on its own."""
        expected = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "group": 1}
        return attributes(conv) == expected

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
        nodes = in_order([*self._added, *kept] if first else [*kept, *self._added])
        copies = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        used = {name for node in copies for name in node.input}
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        constants = [self._onnx.TensorProto.FromString(t.SerializeToString()) for t in constants]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(copies)
        self._graph.initializer.extend(constants)


class NodeWriter:
    """The nodes and constants of the graph of `model`, to be changed and then stored in it."""

    def __init__(self, model: Any) -> None:
        self.onnx: Any = require_onnx()
        self.nodes: list[Any] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {
            tensor.name: self.onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
        }
        self._graph = model.graph

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Keep a constant; gives its name."""
        self.arrays[name] = array
        return name

    def add(
        self, kind: str, inputs: list[str], output: str, name: str = "", **settings: Any
    ) -> str:
        """Add a node, called as its output unless a name is given; gives the output."""
        make = self.onnx.helper.make_node
        self.nodes.append(make(kind, inputs, [output], name=name or output, **settings))
        return output

    def set_input(self, name: str, sizes: list[int]) -> None:
        """Make uint8 [batch, *sizes] the only input; the batch stays as it was."""
        dims = self._graph.input[0].type.tensor_type.shape.dim  # none where nothing is said
        batch = dims[0].dim_value or dims[0].dim_param if dims else ""
        shape = [batch or "N", *sizes]
        kinds = self.onnx.TensorProto
        value = self.onnx.helper.make_tensor_value_info(name, kinds.UINT8, shape)
        del self._graph.input[:]
        self._graph.input.append(value)

    def store(self) -> None:
        """Put everything into the graph; every node gets a name of its own."""
        used = {name for node in self.nodes for name in node.input}
        nodes = [self.onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        taken: set[str] = set()
        for node in nodes:
            if not node.name or node.name in taken:
                node.name = node.output[0]
            taken.add(node.name)
        graph = self._graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(
            self.onnx.numpy_helper.from_array(array, name)
            for name, array in self.arrays.items()
            if name in used
        )
