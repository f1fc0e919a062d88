"""Multiply-adds and parameters of a graph, operator by operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.zoo.graphs.cost import Cost, count_cost

onnx = pytest.importorskip("onnx")
helper, numpy_helper = pytest.importorskip("onnx.helper"), pytest.importorskip("onnx.numpy_helper")

MODELS = Path(__file__).resolve().parents[3] / "models"
FLOAT, UINT8 = 1, 2


def graph(nodes, entry, constants, *, kind=FLOAT, opset=17):
    """A model with input `x` of shape `entry` and output `y`."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", kind, entry)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


def floats(*shape):
    return np.zeros(shape, np.float32)


def test_grouped_convolution_with_stride():
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], group=4)
    constants = {"w": floats(12, 2, 3, 3), "b": floats(12)}
    found = count_cost(graph([node], [1, 8, 11, 9], constants))
    assert found == Cost(12 * 2 * 9 + 12, 12 * 5 * 4 * 2 * 9)


def test_transposed_convolution_counts_its_input():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    found = count_cost(graph([node], [1, 8, 5, 5], {"w": floats(8, 3, 2, 2)}))
    assert found == Cost(8 * 3 * 4, 8 * 25 * 3 * 4)


def test_open_batch_counts_as_one_and_open_height_as_unknown():
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    constants = {"w": floats(4, 3, 1, 1)}
    assert count_cost(graph([node], ["N", 3, 5, 5], constants)) == Cost(12, 4 * 25 * 3)
    assert count_cost(graph([node], ["N", 3, "H", 5], constants)) == Cost(12, None)


def test_products_of_activations_have_multiply_adds_but_no_parameters():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["p"]),
        helper.make_node("MatMul", ["p", "w"], ["q"]),
        helper.make_node("Add", ["q", "b"], ["s"]),
        helper.make_node("Mul", ["s", "half"], ["y"]),
    ]
    constants = {"w": floats(5, 7), "b": floats(7), "half": np.float32(0.5)}
    found = count_cost(graph(nodes, [1, 5, 3], constants))
    assert found == Cost(5 * 7 + 7, 5 * 5 * 3 + 5 * 7 * 5)


def test_gemm_with_transposed_factors_and_a_shared_weight():
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "w", "b"], ["y"], transB=1),
    ]
    found = count_cost(graph(nodes, [1, 6], {"w": floats(6, 6), "b": floats(6)}))
    assert found == Cost(42, 72)


def test_batch_norm_counts_trained_parameters():
    node = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])
    found = count_cost(graph([node], [1, 6, 2, 2], dict.fromkeys("gbmv", floats(6))))
    assert found == Cost(12, 0)


def test_constants_that_are_also_inputs():
    """Files of IR version 3, with batch norm as a product of transposed vectors."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Unsqueeze", ["g"], ["turned"], axes=[1, 2]),
        helper.make_node("Mul", ["c", "turned"], ["m"]),
        helper.make_node("Conv", ["m", "v"], ["y"]),
    ]
    constants = {"w": floats(4, 3, 1, 1), "g": floats(4), "v": floats(2, 4, 1, 1)}
    model = graph(nodes, [1, 3, 5, 5], constants, opset=9)
    model.ir_version = 3
    for name, array in constants.items():
        model.graph.input.append(helper.make_tensor_value_info(name, FLOAT, list(array.shape)))
    assert count_cost(model) == Cost(12 + 4 + 8, 25 * (12 + 8))


def test_integer_operators_of_onnx_runtime_count_like_float_ones():
    """Third-party int8 files have QLinearConv and sums that only ONNX Runtime knows."""
    scale, zero = np.float32(1), np.uint8(0)
    quantized = ["x", "s", "z", "w", "s", "z8", "s", "z", "b"]
    nodes = [
        helper.make_node("QLinearConv", quantized, ["h"]),
        helper.make_node(
            "QLinearAdd", ["h", "s", "z", "h", "s", "z", "s", "z"], ["k"], domain="com.microsoft"
        ),
        helper.make_node("QLinearConv", ["k", *quantized[1:]], ["y"]),
    ]
    constants = {
        "w": np.zeros((3, 3, 1, 1), np.int8),
        "b": np.zeros(3, np.int32),
        "s": scale,
        "z": zero,
        "z8": np.int8(0),
    }
    assert count_cost(graph(nodes, [1, 3, 4, 4], constants, kind=UINT8)) == Cost(12, 2 * 16 * 9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2-int8", Cost(3_487_816, 300_774_272)),
        ("yolov4-tiny-int8", Cost(6_053_502, 3_453_938_176)),
    ],
    ids=["mobilenetv2", "yolov4-tiny"],
)
def test_cost_of_shipped_models_equals_their_papers(name, expected):
    """Although their first convolutions read four pixels at once, with zeros in between."""
    assert count_cost(onnx.load(MODELS / f"{name}.onnx")) == expected
