"""Equalisation and bias correction keep the outputs and make int8 more accurate."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from pipeline.zoo.quantization.quantize import quantize_model
from pipeline.zoo.quantization.rounding import correct_biases
from recipes.equalize import equalize
from recipes.mobilenet_v2 import build_mobilenet, read_blocks

from . import mobilenet_reference as ref

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def blocks():
    """Random weights with some channels far smaller than others, as in trained networks."""
    state = ref.random_state()
    rng = np.random.default_rng(8)
    for name in ("features.0.1", "features.1.conv.4", "features.2.conv.1", "features.5.conv.1"):
        factors = 10 ** rng.uniform(-1.5, 0, len(state[f"{name}.weight"]))
        for part in ("weight", "bias"):
            state[f"{name}.{part}"] = (state[f"{name}.{part}"] * factors).astype(np.float32)
    return read_blocks(state)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(9)
    small = rng.integers(0, 256, (8, 14, 14, 3), dtype=np.uint8)
    return list(np.repeat(np.repeat(small, 16, axis=1), 16, axis=2).reshape(2, 4, 224, 224, 3))


def run(model, pixels, output=None):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    if output is not None:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([output or session.get_outputs()[0].name], {"image": pixels})[0]


def test_equalised_network_has_the_same_outputs(blocks, batches):
    before = run(build_mobilenet(blocks), batches[0])
    after = run(build_mobilenet(equalize(blocks, batches)), batches[0])
    np.testing.assert_allclose(after, before, atol=1e-3 * before.max())


@pytest.mark.parametrize("tensor", ["stem.output", "block2.0.relu6", "block1.1.conv"])
def test_peaks_of_channels_get_more_similar(blocks, batches, tensor):
    def spread(network):
        values = np.concatenate([run(network, batch, tensor) for batch in batches])
        peaks = np.abs(values).max(axis=(0, 2, 3))
        return np.log(peaks.max() / peaks[peaks > 0]).mean()

    before = spread(build_mobilenet(blocks))
    assert spread(build_mobilenet(equalize(blocks, batches))) < 0.6 * before


def test_equalisation_and_bias_correction_make_int8_more_accurate(blocks, batches):
    plain = build_mobilenet(blocks)
    exact = run(plain, batches[1])
    improved = correct_biases(build_mobilenet(equalize(blocks, batches)), batches)

    def error(network):
        return np.abs(
            run(quantize_model(network, batches, jointly=False), batches[1]) - exact
        ).mean()

    assert error(improved) < error(plain)


def test_corrected_bias_restores_the_mean_output():
    """One depthwise product: the mean over the images must equal that without rounding."""
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (3, 1, 2, 2)).astype(np.float32)
    bias = rng.normal(0, 1, 3).astype(np.float32)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["first"], ["pixels"], to=float32),
            helper.make_node("Conv", ["pixels", "w", "b"], ["out"], group=3, strides=[2, 2]),
        ],
        "one",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("out", float32, ["N", 3, 2, 2])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # All taps must have one mean: an image and its mirror images.
    batch = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    batch = np.concatenate([batch, batch[:, ::-1]])
    batch = np.concatenate([batch, batch[:, :, ::-1]])
    exact = run(model, batch).mean(axis=(0, 2, 3))

    def rounded_mean(network):
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        for tensor in network.graph.initializer:
            if tensor.name == "w":
                rounded = (np.rint(weight / step) * step).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, "w"))
        return run(network, batch).mean(axis=(0, 2, 3))

    corrected = correct_biases(model, [batch])
    np.testing.assert_allclose(rounded_mean(corrected), exact, rtol=1e-5, atol=1e-3)
    assert np.abs(rounded_mean(model) - exact).max() > 0.01
