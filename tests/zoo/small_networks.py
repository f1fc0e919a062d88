"""Small float networks with random weights, in the variants that exporters write."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
LABELS = ("red", "green", "blue", "grey")


class Layers:
    """Nodes and constants, layer by layer; each method returns the name of its output."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.nodes, self.constants = [], []

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def weight(self, name, spread, shape):
        return self.constant(name, self.rng.normal(0, spread, shape))

    def add(self, kind, inputs, output, **settings):
        self.nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output


def write_classifier(path, *, size=32, layout="NCHW", stem=(3, 2, 1), tail="gemm", opset=17):
    """A classifier of NCHW or NHWC float images; `stem` is kernel, stride and padding.

    Batch norm stands on its own, convolutions have no bias, constants are nodes, and no node has
    a name.
    """
    net = Layers()
    tensor, shape = "picture", ["batch", 3, size, size]
    if layout == "NHWC":
        shape = ["batch", size, size, 3]
        tensor = net.add("Transpose", [tensor], "planes", perm=[0, 3, 1, 2])
    tensor = _add_tail(net, _add_body(net, _add_stem(net, tensor, *stem)), tail)
    graph = helper.make_graph(
        net.nodes, "small",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", CLASSES])],
        net.constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _add_stem(net, tensor, kernel, stride, padding):
    weight = net.weight("w0", 0.3, (8, 3, kernel, kernel))
    tensor = net.add("Conv", [tensor, weight], "c0", strides=[stride] * 2, pads=[padding] * 4)
    rng = net.rng
    norm = [net.constant(f"n{i}", v) for i, v in enumerate(
        (rng.uniform(0.5, 2, 8), rng.normal(0, 1, 8), rng.normal(0, 1, 8), rng.uniform(0.5, 2, 8))
    )]  # fmt: skip
    return net.add("Relu", [net.add("BatchNormalization", [tensor, *norm], "b0")], "r0")


def _add_body(net, tensor):
    weight = net.weight("w1", 0.5, (8, 1, 3, 3))
    tensor = net.add("Conv", [tensor, weight], "c1", pads=[1] * 4, group=8)
    six = net.add("Constant", [], "six", value=numpy_helper.from_array(np.float32(6)))
    tensor = net.add("Clip", [tensor, net.constant("zero", 0), six], "r1")
    tensor = net.add("Conv", [tensor, net.weight("w2", 0.5, (16, 8, 1, 1))], "c2")
    return net.add("GlobalAveragePool", [net.add("Relu", [tensor], "r2")], "p")


def _add_tail(net, tensor, kind):
    last, bias = net.rng.normal(0, 1, (CLASSES, 16)), net.weight("bias", 1, CLASSES)
    if kind == "conv":
        weight = net.constant("w3", last[:, :, None, None])
        return net.add("Flatten", [net.add("Conv", [tensor, weight, bias], "c3")], "answer")
    rows = net.add("Flatten", [tensor], "rows")
    if kind == "gemm":
        return net.add("Gemm", [rows, net.constant("w3", last), bias], "answer", transB=1)
    product = net.add("MatMul", [rows, net.constant("w3", last.T)], "m3")
    return net.add("Add", [bias, product], "answer")


def write_manifest(path, *, size=32, layout="NCHW", color="RGB"):
    """A manifest of the classifiers above."""
    path.write_text(f"""task = "classify"
labels = {list(LABELS)}
[input]
width = {size}
height = {size}
layout = "{layout}"
dtype = "float32"
color = "{color}"
scale = {1 / 255}
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
""")
    return path
