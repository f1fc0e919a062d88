"""Quantisation: exactness, fused nodes, accuracy of the outputs, and refused input."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from pipeline.errors import InputError
from pipeline.zoo.darknet.importer import import_model
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.onnx_file import load_model, save_model
from pipeline.zoo.quantization.calibration import Histogram, Range, choose_range, collect
from pipeline.zoo.quantization.qdq import QuantizationPlan
from pipeline.zoo.quantization.quantize import quantize_model
from pipeline.zoo.quantization.rounding import (
    PIXEL_WEIGHT_LEVELS,
    Moments,
    input_moments,
    round_jointly,
    round_to_nearest,
)

from ..darknet import darknet_reference as ref


def make_network(folder, layers, width=64, height=32):
    """A float detector with random weights: its model, spec and a few random images."""
    config = ref.write_config(folder / "net.cfg", layers, width, height)
    weights = ref.Network(layers, seed=5).write_weights(folder / "net.weights")
    model, spec = load_model(import_model(config, weights, folder / "net.onnx").path)
    rng = np.random.default_rng(7)
    images = [rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(6)]
    return model, spec, images


@pytest.fixture
def network(tmp_path):
    return make_network(tmp_path, ref.yolov4_tiny(3, 8))


def run(model, image, folder=None):
    options = ort.SessionOptions()
    if folder is not None:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})


def kinds_of(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def signal_to_noise(found, expected):
    """In decibels, over all heads together."""
    error = sum(((a - b) ** 2).sum() for a, b in zip(found, expected, strict=True))
    return 10 * np.log10(sum((b**2).sum() for b in expected) / error)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse"])
@pytest.mark.parametrize("jointly", [False, True], ids=["nearest", "jointly"])
def test_int8_outputs_differ_only_by_rounding(network, method, jointly):
    model, _, images = network
    quantized = quantize_model(model, images[:4], method=method, jointly=jointly)
    for image in images:
        assert signal_to_noise(run(quantized, image), run(model, image)) > 20


def test_rewritten_network_has_equal_outputs(network):
    model, _, images = network
    rewritten, _ = heads_as_products(widen_stem(model))
    assert kinds_of(rewritten)["MatMul"] == 2
    assert kinds_of(rewritten)["Conv"] == kinds_of(model)["Conv"] - 2
    batch = np.concatenate(images)
    for a, b in zip(run(rewritten, batch), run(model, batch), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 32), (32, 48), (36, 33), (68, 31)], ids=str)
def test_wide_stem_is_exact_for_odd_heights_too(tmp_path, size):
    layers = [ref.conv(5, stride=2), ref.linear(18), ref.yolo("0,1,2", 1, "4,4, 8,8, 16,16")]
    model, _, images = make_network(tmp_path, layers, *size)
    wide = widen_stem(model)
    assert "stem.linear" in [node.name for node in wide.graph.node]
    for a, b in zip(run(wide, images[0]), run(model, images[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


OTHER_STEMS = {
    "stride 1": (ref.conv(5), 64),
    "5x5": (ref.conv(5, 5, stride=2), 64),
    "width not divisible": (ref.conv(5, stride=2), 62),
}


@pytest.mark.parametrize("name", OTHER_STEMS, ids=str)
def test_other_first_convolutions_are_unchanged(tmp_path, name):
    stem, width = OTHER_STEMS[name]
    layers = [stem, ref.linear(18), ref.yolo("0,1,2", 1, "4,4, 8,8, 16,16")]
    model, _, _ = make_network(tmp_path, layers, width)
    assert widen_stem(model) == model


def test_every_layer_becomes_an_integer_kernel(network, tmp_path):
    """Without float convolutions and float images."""
    model, _, images = network
    rewritten, keep_float = heads_as_products(widen_stem(model))
    quantized = quantize_model(rewritten, images[:2], keep_float=keep_float)
    run(quantized, images[0], tmp_path)
    kinds = kinds_of(onnx.load(tmp_path / "optimized.onnx"))
    convolutions = kinds_of(rewritten)["Conv"]
    assert kinds["QLinearConv"] == convolutions
    assert kinds["QLinearLeakyRelu"] == convolutions
    assert kinds["MatMulIntegerToFloat"] == 2
    assert not {"Conv", "LeakyRelu", "Cast", "Concat"} & set(kinds)
    # ONNX Runtime before 1.20 does not slice integers: each slice costs a conversion.
    cuts_integers = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 20)
    assert kinds["QuantizeLinear"] == (0 if cuts_integers else kinds_of(rewritten)["Slice"])


def test_nodes_kept_in_float_keep_their_weights(network):
    model, _, images = network
    quantized = quantize_model(model, images[:2], keep_float=["head0"])
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    original = {tensor.name: tensor for tensor in model.graph.initializer}
    (conv,) = [node for node in quantized.graph.node if node.name == "head0"]
    assert stored[conv.input[1]] == original[conv.input[1]]
    int8 = [t for t in stored.values() if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(int8) == kinds_of(model)["Conv"] - 1


def test_joined_tensors_share_a_scale(network):
    """Routes, slices and pooling must not cost a conversion."""
    model, _, images = network
    plan = QuantizationPlan(model)
    histograms = collect(model, images[:2], plan.tensors)
    ranges = plan.share({name: choose_range(h, "minmax") for name, h in histograms.items()})
    for node in model.graph.node:
        if node.op_type in ("Concat", "Slice", "MaxPool", "Resize"):
            names = [*plan.activations(node), *node.output]
            assert len({ranges[name] for name in names}) == 1, node.name


def test_same_input_gives_the_same_bytes(network, tmp_path):
    model, spec, images = network
    for name in ("a.onnx", "b.onnx"):
        save_model(quantize_model(model, images[:3], jointly=True), spec, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_float_model_is_not_changed(network):
    model, _, images = network
    before = model.SerializeToString(deterministic=True)
    rewritten, keep_float = heads_as_products(widen_stem(model))
    quantize_model(rewritten, images[:1], keep_float=keep_float)
    assert model.SerializeToString(deterministic=True) == before


def test_calibration_without_images_is_refused(network):
    with pytest.raises(InputError, match="calibration: expected at least one image"):
        quantize_model(network[0], [])


def test_histogram_counts_every_value(network):
    model, _, images = network
    (found,) = collect(model, images[:3], ["layer1"]).values()
    session_values = [_tensor(model, "layer1", image) for image in images[:3]]
    values = np.concatenate([v.ravel() for v in session_values])
    assert found.counts.sum() == values.size
    assert (found.low, found.high) == (min(0, values.min()), values.max())
    mean = (found.centres * found.counts).sum() / values.size
    assert mean == pytest.approx(values.mean(), abs=(found.high - found.low) / 1000)


def _tensor(model, name, image):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    copy.graph.output.append(value)
    return run(copy, image)[-1]


def histogram_of(values, bins=2048):
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    return Histogram(low, high, counts.astype(np.float64))


def rounding_error(values, found, negative_weight=1.0):
    levels = np.clip(np.rint(values / found.scale) + found.zero_point, 0, 255)
    error = (levels - found.zero_point) * found.scale - values
    return np.mean(error**2 * np.where(values < 0, negative_weight, 1.0))


@pytest.mark.parametrize("negative_weight", [1.0, 0.01])
def test_least_error_range_beats_a_search_over_real_rounding(negative_weight):
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.normal(-2, 3, 50_000), rng.laplace(0, 1.5, 50_000)))
    histogram = histogram_of(values)
    found = choose_range(histogram, "mse", negative_weight=negative_weight)
    searched = min(
        rounding_error(values, Range(histogram.low * a, histogram.high * b), negative_weight)
        for a in np.linspace(0.05, 1, 20)
        for b in np.linspace(0.05, 1, 20)
    )
    assert rounding_error(values, found, negative_weight) <= searched * 1.05
    assert found.low >= histogram.low
    assert found.high <= histogram.high


def test_entropy_range_clips_the_tail():
    rng = np.random.default_rng(3)
    values = np.maximum(np.concatenate((rng.normal(0, 1, 200_000), [40.0])), 0)
    found = choose_range(histogram_of(values), "entropy")
    assert found.low == 0
    assert 3.5 < found.high < 40
    bounded = np.clip(rng.normal(0, 3, 200_000), 0, 6)  # the output of ReLU6 has no tail
    assert choose_range(histogram_of(bounded), "entropy").high == pytest.approx(6)


def test_percentile_range_leaves_out_the_given_share():
    values = np.random.default_rng(1).normal(0, 1, 200_000)
    found = choose_range(histogram_of(values), "percentile", percentile=99.9)
    assert np.mean(values < found.low) == pytest.approx(0.001, rel=0.3)
    assert np.mean(values > found.high) == pytest.approx(0.001, rel=0.3)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse"])
@pytest.mark.parametrize(
    "values",
    [np.zeros(10), np.array([0.0, 0, 0, 5]), np.array([-3.0, -1, 0])],
    ids=["all zero", "one positive", "negative only"],
)
def test_range_of_few_values_has_a_scale(values, method):
    found = choose_range(histogram_of(values), method)
    assert found.scale > 0
    assert 0 <= found.zero_point <= 255
    assert np.isfinite(rounding_error(values, found))


def test_weights_are_rounded_to_the_nearest_of_their_channel():
    weight = np.random.default_rng(2).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    weight[1] *= 100
    weight[2] = 0
    values, scale, _ = round_to_nearest(weight)
    assert values.dtype == np.int8
    assert np.abs(values).max() <= 127
    error = np.abs(values * scale[:, None, None, None] - weight).max(axis=(1, 2, 3))
    assert (error <= scale / 2 * 1.0001).all()
    assert not values[2].any()


def correlated_inputs(count=4000, size=40):
    """Samples of correlated inputs, like neighbouring pixels."""
    rng = np.random.default_rng(4)
    return rng.normal(1, 1, (count, 6)) @ rng.normal(0, 1, (6, size)) + rng.normal(
        0, 0.1, (count, size)
    )


@pytest.mark.parametrize("levels", [127, 31])
def test_joint_rounding_reduces_the_error_of_the_outputs(levels):
    x = correlated_inputs()
    moments = Moments(x.mean(axis=0), np.cov(x.T, bias=True))
    weight = np.random.default_rng(5).normal(0, 1, (16, 40)).astype(np.float32)
    errors = {}
    for name, found in (
        ("jointly", round_jointly(weight, moments, levels)),
        ("nearest", round_to_nearest(weight, levels)),
    ):
        assert np.abs(found.values).max() <= levels
        got = x @ (found.values * found.scale[:, None]).T + found.bias_change
        errors[name] = np.mean((got - x @ weight.T) ** 2)
        if name == "jointly":
            np.testing.assert_allclose((got - x @ weight.T).mean(axis=0), 0, atol=1e-3)
    assert errors["jointly"] < errors["nearest"] / 4


def test_input_moments_equal_those_of_the_patches(tmp_path):
    layers = [ref.conv(5), ref.conv(7, 3, 2), ref.linear(18), ref.yolo("0,1,2", 1, "1,1,2,2,3,3")]
    model, _, images = make_network(tmp_path, layers, 20, 12)
    (node,) = [n for n in model.graph.node if n.name == "layer1.linear"]
    found = input_moments(model, [node], images)["layer1.linear"]
    rows = []
    for image in images:
        padded = np.pad(_tensor(model, "layer0", image)[0], ((0, 0), (1, 1), (1, 1)))
        rows += [padded[:, i : i + 3, j : j + 3].ravel() for i in range(0, 12, 2)
                 for j in range(0, 20, 2)]  # fmt: skip
    np.testing.assert_allclose(found.mean, np.mean(rows, axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        found.covariance, np.cov(np.array(rows).T, bias=True), rtol=1e-2, atol=1e-3
    )


def test_products_of_pixels_fit_16_bits(network):
    model, _, images = network
    quantized = quantize_model(widen_stem(model), images[:2], jointly=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    stem = stored["stem.weight.q"].astype(int)
    assert np.abs(stem).max() <= PIXEL_WEIGHT_LEVELS
    assert 2 * 255 * PIXEL_WEIGHT_LEVELS <= 2**15 - 1
