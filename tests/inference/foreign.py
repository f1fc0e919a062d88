"""Small ONNX models as other tools make them, and their manifests."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEIGHT = 64, 32
LABELS = ("cat", "dog", "cup")
MEAN, STD, SCALE = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 1 / 255
MANIFEST = f"""
task = "classify"
labels = ["cat", "dog", "cup"]
[input]
width = {WIDTH}
height = {HEIGHT}
layout = "NCHW"
dtype = "float32"
color = "RGB"
scale = {SCALE!r}
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.6, 0.7]
"""
DETECTOR = (
    MANIFEST.replace("classify", "detect")
    + """
[[heads]]
output = "head"
mask = [1, 2]
scale_x_y = 1.05
"""
)
ANCHORS = "anchors = [[4, 4], [10, 14], [23, 27]]\n"
CHANNELS = 2 * (5 + len(LABELS))


def graph(nodes, entry, output, weights=()):
    inputs = [helper.make_tensor_value_info(*entry)]
    outputs = [helper.make_tensor_value_info(*output)]
    made = helper.make_graph(nodes, "test", inputs, outputs, list(weights))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def classifier_graph(batch="N"):
    """The mean of each plane: one logit per channel, red first."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    entry = ("x", TensorProto.FLOAT, [batch, 3, HEIGHT, WIDTH])
    return graph(nodes, entry, ("y", TensorProto.FLOAT, [batch, 3]))


def head_weights():
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 0.02, (CHANNELS, 3, 16, 16)).astype(np.float32)
    bias = rng.normal(0, 0.3, CHANNELS).astype(np.float32)
    return [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(bias, "b")]


def detector_graph():
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["head"], strides=[16, 16])]
    entry = ("x", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])
    output = ("head", TensorProto.FLOAT, ["N", CHANNELS, HEIGHT // 16, WIDTH // 16])
    return graph(nodes, entry, output, head_weights())
