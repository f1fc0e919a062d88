"""Builder of ONNX graphs, and helpers that read and copy their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.zoo.onnx_file import IR_VERSION, OPSET, ModelProto, require_onnx

Message = TypeVar("Message", bound=Any)

IMAGE = "image"
"""The input of networks that are built here: uint8 BGR pixels [N, height, width, 3]."""
ACTIVATIONS = ("LeakyRelu", "Relu", "Clip")
"""Activations that ONNX Runtime fuses into an integer convolution, or runs directly after it."""


def attributes(node: Any) -> dict[str, Any]:
    """Return the integer and integer list attributes of a node."""
    return {a.name: list(a.ints) if a.ints else a.i for a in node.attribute}


def clone(message: Message) -> Message:
    """Return a copy of a model, node or tensor."""
    copy: Message = type(message)()
    copy.CopyFrom(message)
    return copy


def consumers_of(nodes: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the nodes that read each tensor, by the name of the tensor."""
    consumers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return consumers


def in_order(nodes: Sequence[Any]) -> list[Any]:
    """Return the nodes in topological order; nodes that are in order already keep it."""
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


class GraphBuilder:
    """Collects nodes, and constants as arrays by name; starts with the constants of `model`.

    Raises `DependencyError` if the onnx package is not installed.
    """

    def __init__(self, model: ModelProto | None = None) -> None:
        self.onnx: Any = require_onnx()
        self.nodes: list[Any] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        if model is not None:
            to_array = self.onnx.numpy_helper.to_array
            self.arrays = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store a constant and return its name."""
        self.arrays[name] = array
        return name

    def shape(self, name: str, sizes: Sequence[int]) -> str:
        """Store int64 sizes, as Reshape and Pad read them, and return their name."""
        return self.constant(name, np.array(sizes, np.int64))

    def add(
        self, kind: str, inputs: Sequence[str], output: str, name: str = "", **settings: Any
    ) -> str:
        """Add a node, named after its output unless a name is given, and return the output."""
        make = self.onnx.helper.make_node
        self.nodes.append(make(kind, inputs, [output], name=name or output, **settings))
        return output

    def add_copy(self, node: Any, tensor: str, output: str) -> str:
        """Add a copy of `node` that reads `tensor`, and return its output."""
        copy = clone(node)
        copy.name, copy.input[0], copy.output[0] = output, tensor, output
        self.nodes.append(copy)
        return output

    def tensors(self) -> list[Any]:
        """Return the constants that the nodes use, in the order in which they were stored."""
        used = {name for node in self.nodes for name in node.input}
        from_array = self.onnx.numpy_helper.from_array
        return [from_array(array, name) for name, array in self.arrays.items() if name in used]

    def make_model(
        self, name: str, height: int, width: int, outputs: Mapping[str, Sequence[int]]
    ) -> ModelProto:
        """Return a model from `image` [N, height, width, 3] to float32 `outputs` [N, ...]."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        entry = helper.make_tensor_value_info(IMAGE, kinds.UINT8, ["N", height, width, 3])
        answers = [
            helper.make_tensor_value_info(output, kinds.FLOAT, ["N", *shape])
            for output, shape in outputs.items()
        ]
        model: ModelProto = helper.make_model(
            helper.make_graph(self.nodes, name, [entry], answers, self.tensors()),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vision",
        )
        return model

    def store(self, model: ModelProto) -> None:
        """Replace the nodes and constants of `model`; nodes get unique names."""
        nodes = [clone(node) for node in in_order(self.nodes)]
        taken: set[str] = set()
        for node in nodes:
            if not node.name or node.name in taken:
                node.name = node.output[0]
            taken.add(node.name)
        graph, tensors = model.graph, self.tensors()
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
