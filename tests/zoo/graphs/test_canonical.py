"""Third-party networks in canonical form: the same outputs from uint8 pixels."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest

from pipeline.errors import ModelError
from pipeline.inference.manifest import read_manifest
from pipeline.inference.session import open_model
from pipeline.zoo.classifier_head import features_of
from pipeline.zoo.graphs.canonical import canonical_form
from pipeline.zoo.graphs.rewrites import heads_as_products
from pipeline.zoo.onnx_file import load_graph, save_model
from pipeline.zoo.quantization.quantize import quantize_model

from .. import small_networks as small

HABITS = {
    "packed stem": {},
    "BGR": {"color": "BGR"},
    "stem of stride 1": {"stem": (3, 1, 1)},
    "large stem": {"stem": (7, 2, 3)},
    "width that four does not divide": {"size": 30},
    "channels last": {"layout": "NHWC"},
    "last convolution": {"tail": "conv"},
    "product and sum": {"tail": "product"},
    "old opset": {"opset": 11},
}


def opened(folder, **habits):
    """The outputs of the network in our session, which applies its manifest."""
    facts = {key: habits.pop(key) for key in ("color",) if key in habits}
    shared = {key: habits[key] for key in ("size", "layout") if key in habits}
    path = small.write_classifier(folder / "net.onnx", **habits)
    spec = read_manifest(small.write_manifest(folder / "net.toml", **facts, **shared))
    return open_model(path, spec=spec)


def pixels_for(model, count=3):
    entry = model.spec.input
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, entry.height, entry.width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", HABITS, ids=str)
def test_outputs_from_uint8_pixels_equal_the_original(tmp_path, name):
    model = opened(tmp_path, **HABITS[name])
    standard = canonical_form(load_graph(model.path), model.spec)
    rewritten, _ = heads_as_products(standard.model)
    save_model(rewritten, standard.spec, tmp_path / "standard.onnx")
    found = open_model(tmp_path / "standard.onnx")
    assert found.spec.input.dtype == "uint8"
    batch = pixels_for(model)
    np.testing.assert_allclose(found.run(batch)[0], model.run(batch)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["packed stem", "channels last", "last convolution"])
def test_int8_outputs_are_close_to_the_original(tmp_path, name):
    model = opened(tmp_path, **HABITS[name])
    standard = canonical_form(load_graph(model.path), model.spec)
    rewritten, heads = heads_as_products(standard.model)
    batch = pixels_for(model, 8)
    quantized = quantize_model(rewritten, [batch], keep_float=[*heads, *standard.float_nodes])
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("DequantizeLinear") > 8
    save_model(quantized, standard.spec, tmp_path / "int8.onnx")
    found, expected = open_model(tmp_path / "int8.onnx").run(batch)[0], model.run(batch)[0]
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_dead_channels_keep_their_bias_in_int8(tmp_path):
    """The output of a channel without weights is its bias, which overflows its own scale."""
    model = opened(tmp_path)
    graph = load_graph(model.path)
    for tensor in graph.graph.initializer:
        if tensor.name == "w1":
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    bias = onnx.numpy_helper.from_array(np.full(8, 3.0, np.float32), "b1")
    graph.graph.initializer.append(bias)
    (conv,) = [node for node in graph.graph.node if "w1" in node.input]
    conv.input.append("b1")
    onnx.save(graph, model.path)
    model = open_model(model.path, spec=model.spec)
    standard = canonical_form(graph, model.spec)
    batch = pixels_for(model, 8)
    save_model(
        quantize_model(standard.model, [batch], keep_float=standard.float_nodes),
        standard.spec, tmp_path / "int8.onnx",
    )  # fmt: skip
    found, expected = open_model(tmp_path / "int8.onnx").run(batch)[0], model.run(batch)[0]
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_int8_model_is_refused(tmp_path):
    model = opened(tmp_path)
    standard = canonical_form(load_graph(model.path), model.spec)
    quantized = quantize_model(standard.model, [pixels_for(model)], keep_float=standard.float_nodes)
    with pytest.raises(ModelError, match="is an int8 model already; expected the float model"):
        canonical_form(quantized, standard.spec)


def test_weights_with_nan_are_refused(tmp_path):
    model = opened(tmp_path)
    graph = load_graph(model.path)
    (tensor,) = [tensor for tensor in graph.graph.initializer if tensor.name == "w2"]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[0, 0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    with pytest.raises(ModelError, match=r"expected finite weights, but '.*' has NaN or infinity"):
        canonical_form(graph, model.spec)


def test_final_softmax_is_removed(tmp_path):
    model = opened(tmp_path)
    graph = load_graph(model.path)
    answer = graph.graph.output[0].name
    graph.graph.node.append(onnx.helper.make_node("Softmax", [answer], ["shares"]))
    graph.graph.output[0].name = "shares"
    standard = canonical_form(graph, msgspec.structs.replace(model.spec, logits="shares"))
    save_model(standard.model, standard.spec, tmp_path / "standard.onnx")
    pixels = pixels_for(model)
    (found,) = open_model(tmp_path / "standard.onnx").run(pixels)
    np.testing.assert_allclose(found, model.run(pixels)[0], rtol=1e-3, atol=1e-3)


def test_input_without_a_shape_is_replaced(tmp_path):
    model = opened(tmp_path)
    graph = load_graph(model.path)
    graph.graph.input[0].type.tensor_type.ClearField("shape")
    standard = canonical_form(graph, model.spec)
    dims = standard.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 32, 32, 3]


def test_half_precision_network_is_refused(tmp_path):
    model = opened(tmp_path)
    graph = load_graph(model.path)
    (stem,) = [tensor for tensor in graph.graph.initializer if tensor.name == "w0"]
    halves = onnx.numpy_helper.to_array(stem).astype(np.float16)
    stem.CopyFrom(onnx.numpy_helper.from_array(halves, "w0"))
    with pytest.raises(ModelError, match="in float32, but 'w0' is float16; export the model in"):
        canonical_form(graph, model.spec)


def test_features_of_a_rewritten_head_are_found(tmp_path):
    model = opened(tmp_path, tail="conv")
    standard = canonical_form(load_graph(model.path), model.spec)
    rewritten, _ = heads_as_products(standard.model)
    makers = {name: node for node in rewritten.graph.node for name in node.output}
    rows = makers[features_of(rewritten, standard.spec)]  # a transposed copy of pooled features
    assert makers[rows.input[0]].op_type == "GlobalAveragePool"
