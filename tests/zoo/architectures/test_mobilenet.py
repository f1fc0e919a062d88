"""The MobileNets against published parameters, multiply-adds, accuracy and outputs."""

from __future__ import annotations

import csv
import functools
from collections import Counter
from math import floor, prod
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from pipeline.errors import InputError, ModelError
from pipeline.zoo.architectures.mobilenet import (
    FAMILIES,
    MobileNet,
    build_mobilenet,
    float_nodes,
    make_spec,
)
from pipeline.zoo.architectures.network import GivenWeights, RandomWeights, round_channels
from pipeline.zoo.candidates import MOBILENETS
from pipeline.zoo.graphs.cost import count_cost
from pipeline.zoo.graphs.uint8_input import Scaling
from pipeline.zoo.onnx_file import open_with_outputs, save_model
from pipeline.zoo.quantization.quantize import quantize_untrained

SYMMETRIC = Scaling(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""From -1 to 1, as in TensorFlow's MobileNets."""
onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")


def constants_of(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def run(model, pixels):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": pixels})[0]


def images(count, side):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


class Counted:
    """The cost of a member, and the numbers that its table counts differently."""

    def __init__(self, member: MobileNet) -> None:
        model = build_mobilenet(member)
        self.parameters, self.multiply_adds = count_cost(model)
        shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
        self.stem = shapes["stem.bias"][0] // 2 * 27 * (member.resolution // 2) ** 2
        names = [name.removesuffix(".bias") for name in shapes if name.endswith(".bias")]
        attention = {name.split(".")[0] for name in names if name.endswith(".query")}
        bare = {"head", "features" if "v3" in member.family else ""}
        self.normalised, self.unbiased, self.scaled = 0, 0, 0
        for name in names:
            channels = shapes[f"{name}.bias"][0] // (2 if name == "stem" else 1)
            block, _, part = name.partition(".")
            if block in attention and part in ("query", "key", "value", "project"):
                self.unbiased += channels
            elif block not in bare and ".se." not in name and part != "norm":
                self.normalised += channels
            if attention and part == "project" and block != "block1":
                self.scaled += channels  # folded into the projection: a factor for each channel
        self.outputs = self._normalised_outputs(model, attention)

    @staticmethod
    def _normalised_outputs(model, attention) -> int:
        convs = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
        bare = {f"{a}.{p}.conv" for a in attention for p in ("query", "key", "value", "project")}
        shapes = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[1:]] for v in shapes}
        return sum(prod(sizes[name]) for name in convs if name not in bare)


@functools.cache
def counted(family, width, resolution):
    return Counted(MobileNet(family, width, resolution))


# The tables count batch norm in ways of their own. Folded into a convolution it is its bias, one
# number a channel. TensorFlow's V1 table counts three (offset, mean, variance), its V2 and V3
# tables none, timm two (scale, offset).
PER_CHANNEL = {"mobilenet_v1": 3, "mobilenet_v2": 0, "mobilenet_v3": 0}
# 34 M multiply-adds in the table for 192 pixels, though it has 41 for 224; and 150 for 149.497.
MISPRINTS = {("0.25", "192"): 30.2, ("0.5", "224"): 149.5}
# The tables of MobileNetV3-small are of the paper's first version, with 1280 features rather than
# 1024; and of 66 M multiply-adds, where the paper's final version says 56.
SMALL_V3 = {"1.0": (56.5, 2.53), "0.75": (43.4, 2.03)}


def expected_macs(row, found) -> tuple[float, float]:
    """The figures of the table, and our count in the same way, in millions."""
    stated, macs = float(row["million_macs"]), found.multiply_adds / 1e6
    family, width = row["family"], row["width"]
    key = (width, row["resolution"])
    if family == "mobilenet_v1" and key in MISPRINTS:
        return MISPRINTS[key], round(macs, 1)
    if family == "mobilenet_v3_small":
        return SMALL_V3[width][0], round(macs, 1)
    if family == "mobilenet_v1" and width == "0.75":
        return stated, round(macs - found.stem / 1e6)  # the row leaves out the first convolution
    if family == "mobilenet_v2":
        return stated, floor(macs)  # cut off, not rounded
    if family.startswith("mobilenet_v4"):  # timm: batch norm is two operations a number
        return stated, round((macs + 2 * found.outputs / 1e6) / 10) * 10
    return stated, round(macs)


def in_timm(found) -> int:
    """The number of parameters as timm counts them."""
    return found.parameters + found.normalised - found.unbiased + found.scaled


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (("mobilenet_v3_small", 0.75, 224), 2_041_872),
        (("mobilenet_v4_conv_small", 1.0, 224), 3_774_024),
        (("mobilenet_v4_conv_small", 0.5, 224), 2_238_952),
        (("mobilenet_v4_conv_medium", 1.0, 256), 9_715_512),
        (("mobilenet_v4_hybrid_medium", 1.0, 224), 11_074_648),
        (("mobilenet_v4_conv_large", 1.0, 384), 32_590_864),
    ],
    ids=lambda value: f"{value[0]}-{value[1]}" if isinstance(value, tuple) else "",
)
def test_parameters_equal_those_of_timm(member, expected):
    assert in_timm(counted(*member)) == expected


def expected_parameters(row, found) -> tuple[float, float]:
    stated, family = float(row["million_params"]), row["family"]
    if family.startswith("mobilenet_v4"):
        return stated, round(in_timm(found) / 1e6, 2)
    folded = found.parameters - found.normalised
    millions = (folded + PER_CHANNEL[family[:12]] * found.normalised) / 1e6
    if family == "mobilenet_v3_small":
        return SMALL_V3[row["width"]][1], round(millions, 2)
    if family == "mobilenet_v3_large" and row["width"] == "1.0":
        return stated, floor(millions * 10) / 10  # cut off, not rounded
    decimals = len(row["million_params"].partition(".")[2])
    return stated, round(millions, decimals)


def test_parameters_and_multiply_adds_equal_the_published_ones(shared):
    with (shared / "reference" / "mobilenet.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(MOBILENETS)
    for row in rows:
        found = counted(row["family"], float(row["width"]), int(row["resolution"]))
        stated, ours = expected_macs(row, found)
        assert ours == stated, row
        stated, ours = expected_parameters(row, found)
        assert ours == stated, row


def test_published_accuracy_equals_the_reference(shared):
    with (shared / "reference" / "mobilenet.csv").open() as file:
        expected = {
            (row["family"], float(row["width"]), int(row["resolution"])): (
                float(row["top1_percent"]), float(row["top5_percent"] or "nan")
            )
            for row in csv.DictReader(file)
        }  # fmt: skip
    for row in MOBILENETS:
        top1, top5 = expected[row.family, row.width, row.resolution]
        assert row.top1 == top1
        assert np.isnan(top5) or row.top5 == top5


@pytest.mark.parametrize(
    ("file", "member"),
    [
        ("mobilenet_v1_0.25_128", MobileNet("mobilenet_v1", 0.25, 128, 1001)),
        ("mobilenet_v1_0.5_160", MobileNet("mobilenet_v1", 0.5, 160, 1001)),
        ("mobilenet_v2_1.0_224", MobileNet("mobilenet_v2", 1.0, 224, 1001)),
    ],
    ids=["v1-0.25", "v1-0.5", "v2-1.0"],
)
def test_trained_weights_give_the_outputs_of_the_trained_network(shared, file, member):
    """The files take RGB from -1 to 1 in NCHW and pad like TensorFlow."""
    trained = onnx.load(shared / "models" / f"{file}.onnx")
    arrays = constants_of(trained)
    layers = [node for node in trained.graph.node if node.op_type == "Conv"]
    pairs = [(arrays[node.input[1]], arrays[node.input[2]]) for node in layers]
    pairs[-1] = (pairs[-1][0][:, :, 0, 0], pairs[-1][1])
    left = iter(pairs)
    model = build_mobilenet(member, GivenWeights(left), scaling=SYMMETRIC, padding="same")
    assert next(left, None) is None
    pixels = images(2, member.resolution)
    as_trained = (pixels[..., ::-1].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    expected = run(trained, as_trained)
    assert np.abs(expected).max() > 3
    np.testing.assert_allclose(run(model, pixels), expected, atol=1e-3)


def hard_sigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def tensors(model, names, side):
    """Some tensors for one image, in float64 and without the batch axis."""
    session = open_with_outputs(model, names)
    values = session.run(names, {"image": images(1, side)})
    return {n: v[0].astype(np.float64) for n, v in zip(names, values, strict=True)}


def test_squeeze_and_excite_matches_the_paper():
    model = build_mobilenet(MobileNet("mobilenet_v3_small", 1.0, 64, 3))
    w = constants_of(model)
    t = tensors(model, ["block4.depthwise.hswish", "block4.depthwise.conv", "block4.se.scaled"], 64)
    linear, x = t["block4.depthwise.conv"], t["block4.depthwise.hswish"]
    np.testing.assert_allclose(x, linear * hard_sigmoid(linear), atol=1e-5)
    squeezed = w["block4.se.0.weight"][:, :, 0, 0] @ x.mean(axis=(1, 2)) + w["block4.se.0.bias"]
    assert len(squeezed) == round_channels(len(x) / 4)
    gate = w["block4.se.1.weight"][:, :, 0, 0] @ np.maximum(squeezed, 0) + w["block4.se.1.bias"]
    expected = x * hard_sigmoid(gate)[:, None, None]
    np.testing.assert_allclose(t["block4.se.scaled"], expected, atol=1e-5)


def test_attention_matches_the_paper():
    """Block 8 of hybrid-medium: a map of 8 x 8, keys and values from every second place."""
    model = build_mobilenet(MobileNet("mobilenet_v4_hybrid_medium", 1.0, 128, 3))
    w = {name: a.astype(np.float64) for name, a in constants_of(model).items()}
    names = ["block8.norm.conv", "block8.key.down.conv", "block8.value.down.conv", "block8.sum"]
    entry = next(n.input[0] for n in model.graph.node if n.output[0] == "block8.norm.conv")
    t = tensors(model, [entry, *names], 128)

    def project(name, x):
        weight = w[f"block8.{name}.weight"][:, :, 0, 0]
        return weight @ x.reshape(len(x), -1) + w[f"block8.{name}.bias"][:, None]

    queries = project("query", t["block8.norm.conv"]).reshape(4, 64, 64)
    keys = project("key", t["block8.key.down.conv"])
    values = project("value", t["block8.value.down.conv"])
    assert keys.shape == values.shape == (64, 16)
    heads = []
    for query in queries:
        scores = np.exp(query.T @ keys / 8)
        heads.append(values @ (scores / scores.sum(axis=1, keepdims=True)).T)
    answer = project("project", np.concatenate(heads).reshape(256, 8, 8))
    expected = t[entry] + answer.reshape(160, 8, 8)
    np.testing.assert_allclose(t["block8.sum"], expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_in_float_and_int8_with_moderate_values(family, tmp_path):
    member = MobileNet(family, 0.5, 96, 7)
    model = build_mobilenet(member)
    integer = quantize_untrained(model, float_nodes(model))
    assert count_cost(integer) == count_cost(model)
    pixels = images(2, 96)
    for network in (model, integer):
        save_model(network, make_spec(member), tmp_path / "network.onnx")
        logits = run(network, pixels)
        assert logits.shape == (2, 7)
        assert 0.01 < np.abs(logits).max() < 30
    constants = constants_of(integer)
    assert not [n for n, a in constants.items() if n.endswith(".weight") and a.dtype != np.int8]
    assert constants["stem.weight.q"].dtype == constants["head.weight.q"].dtype == np.int8


def kernels_of(path, folder):
    """The number of kernels of each kind that ONNX Runtime uses for a file."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


def test_untrained_int8_uses_the_kernels_of_the_trained_network(tmp_path):
    member = MobileNet("mobilenet_v2")
    model = build_mobilenet(member)
    path = tmp_path / "network.onnx"
    save_model(quantize_untrained(model, float_nodes(model)), make_spec(member), path)
    shipped = Path(__file__).resolve().parents[3] / "models" / "mobilenetv2-int8.onnx"
    assert kernels_of(path, tmp_path) == kernels_of(shipped, tmp_path)


def test_random_weights_depend_only_on_the_seed():
    member = MobileNet("mobilenet_v1", 0.25, 32, 2)
    model = build_mobilenet(member)
    assert build_mobilenet(member) == model
    assert build_mobilenet(member, RandomWeights(seed=1)) != model


def test_widths_round_channels_like_the_papers():
    assert [round_channels(c) for c in (32 * 0.35, 24 * 0.75, 96 * 1.3, 3, 44.8)] == [
        16, 24, 128, 8, 48
    ]  # fmt: skip
    assert MobileNet("mobilenet_v2", 0.75, 160).name == "mobilenet_v2_0.75_160"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobilenet_v5",), "mobilenet_v5: unknown; known are mobilenet_v1"),
        (("mobilenet_v2", 9.0), r"width: expected 0\.1 to 4\.0, got 9\.0"),
        (("mobilenet_v2", float("nan")), "width: .* got nan"),
        (("mobilenet_v2", 1.0, 100), "multiple of 32 up to 1024, got 100"),
        (("mobilenet_v2", 1.0, 224, 0), "classes: expected 1 to 100000, got 0"),
    ],
    ids=["family", "width", "nan", "resolution", "classes"],
)
def test_unsupported_member_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        MobileNet(*arguments)


def test_number_of_labels_must_equal_number_of_classes():
    member = MobileNet("mobilenet_v1", classes=3)
    assert make_spec(member).labels == ("class 0", "class 1", "class 2")
    with pytest.raises(InputError, match="expected 3 labels, got 2"):
        make_spec(member, ("cat", "dog"))


def test_mismatched_weights_are_named():
    member = MobileNet("mobilenet_v1", 0.25, 32, 2)
    stem = (np.zeros((8, 3, 3, 3), np.float32), np.zeros(8, np.float32))
    with pytest.raises(ModelError, match=r"layer block1\.0: .* but there are no more"):
        build_mobilenet(member, GivenWeights([stem]))
    with pytest.raises(ModelError, match=r"block1\.0: expected weights of \(8, 1, 3, 3\)"):
        build_mobilenet(member, GivenWeights([stem, stem]))
