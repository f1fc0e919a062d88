"""Float networks as others export them: small, with random weights, and with odd habits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
LABELS = ("red", "green", "blue", "grey")


def write_classifier(path, *, size=32, layout="NCHW", stem=(3, 2, 1), tail="gemm", opset=17):
    """A classifier of NCHW or NHWC float pictures; `stem` is kernel, stride and padding.

    Batch norm stands on its own, convolutions have no bias, constants are nodes, and no node has
    a name.
    """
    rng = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def add(kind, inputs, output, **settings):
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    tensor, shape = "picture", ["batch", 3, size, size]
    if layout == "NHWC":
        shape = ["batch", size, size, 3]
        tensor = add("Transpose", [tensor], "planes", perm=[0, 3, 1, 2])
    kernel, stride, padding = stem
    weight = constant("w0", rng.normal(0, 0.3, (8, 3, kernel, kernel)))
    tensor = add("Conv", [tensor, weight], "c0", strides=[stride] * 2, pads=[padding] * 4)
    norm = [constant(f"n{i}", v) for i, v in enumerate(
        (rng.uniform(0.5, 2, 8), rng.normal(0, 1, 8), rng.normal(0, 1, 8), rng.uniform(0.5, 2, 8))
    )]  # fmt: skip
    tensor = add("Relu", [add("BatchNormalization", [tensor, *norm], "b0")], "r0")
    weight = constant("w1", rng.normal(0, 0.5, (8, 1, 3, 3)))
    tensor = add("Conv", [tensor, weight], "c1", pads=[1] * 4, group=8)
    nodes.append(helper.make_node(
        "Constant", [], ["six"], value=numpy_helper.from_array(np.float32(6))
    ))  # fmt: skip
    tensor = add("Clip", [tensor, constant("zero", 0), "six"], "r1")
    weight = constant("w2", rng.normal(0, 0.5, (16, 8, 1, 1)))
    tensor = add(
        "GlobalAveragePool", [add("Relu", [add("Conv", [tensor, weight], "c2")], "r2")], "p"
    )
    last, bias = rng.normal(0, 1, (CLASSES, 16)), constant("bias", rng.normal(0, 1, CLASSES))
    if tail == "conv":
        weight = constant("w3", last[:, :, None, None])
        tensor = add("Flatten", [add("Conv", [tensor, weight, bias], "c3")], "answer")
    elif tail == "gemm":
        inputs = [add("Flatten", [tensor], "rows"), constant("w3", last), bias]
        tensor = add("Gemm", inputs, "answer", transB=1)
    else:
        product = add("MatMul", [add("Flatten", [tensor], "rows"), constant("w3", last.T)], "m3")
        tensor = add("Add", [bias, product], "answer")
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", CLASSES])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_manifest(path, *, size=32, layout="NCHW", color="RGB"):
    """What the classifiers above expect."""
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
