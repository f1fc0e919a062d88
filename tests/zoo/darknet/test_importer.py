"""The importer compared with an independent evaluation of the same cfg and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from pipeline.inference.manifest import read_labels
from pipeline.inference.spec import METADATA_KEY, decode_spec
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.importer import COCO_LABELS, import_model

from . import darknet_reference as ref


def import_and_run(tmp_path, layers, width, height, seed=0, **net):
    """Heads of the imported graph and of the reference for one random image."""
    network = ref.Network(layers, seed)
    config = ref.write_config(tmp_path / "net.cfg", layers, width, height, **net)
    weights = network.write_weights(tmp_path / "net.weights")
    summary = import_model(config, weights, tmp_path / "net.onnx")
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    session = ort.InferenceSession(str(summary.path), providers=["CPUExecutionProvider"])
    names = [output.output for output in summary.spec.head.outputs]
    found = [head[0] for head in session.run(names, {"image": image[None]})]
    return summary, found, network(image)


def assert_same(found, expected):
    assert [a.shape for a in found] == [b.shape for b in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


FAMILIES = {
    "yolov3-tiny": ref.yolov3_tiny(3, 2),
    "yolov3-tiny, one class": ref.yolov3_tiny(1, 2),
    "yolov4-tiny": ref.yolov4_tiny(4, 4),
    "yolov4-tiny, 80 classes": ref.yolov4_tiny(80, 2),
    "yolov4-tiny-3l": ref.yolov4_tiny(2, 4, heads=3),
}


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (32, 32), (160, 96)], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_imported_network_has_the_outputs_of_the_reference(tmp_path, family, size):
    _, found, expected = import_and_run(tmp_path, FAMILIES[family], *size)
    assert_same(found, expected)


SMALL_HEAD = [ref.linear(18), ref.yolo("0,1,2", 1, "4,4, 8,8, 16,16")]


@pytest.mark.parametrize(
    "kind", ["linear", "leaky", "relu", "relu6", "logistic", "tanh", "mish", "swish"]
)
def test_every_activation(tmp_path, kind):
    layers = [ref.conv(6, activation=kind), *SMALL_HEAD]
    assert_same(*import_and_run(tmp_path, layers, 20, 12)[1:])


@pytest.mark.parametrize(
    "pool",
    [
        {"size": 2, "stride": 1},
        {"size": 2, "stride": 2},
        {"size": 3, "stride": 1},
        {"size": 3, "stride": 2},
        {"size": 5, "stride": 1},
        {"size": 2, "stride": 2, "padding": 0},
        {"size": 3, "stride": 3, "padding": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(20, 12), (19, 13)], ids=str)
def test_max_pooling_pads_like_darknet(tmp_path, pool, size):
    layers = [ref.conv(6), {"kind": "maxpool", **pool}, *SMALL_HEAD]
    assert_same(*import_and_run(tmp_path, layers, *size)[1:])


OTHERS = {
    "shortcut": [ref.conv(6), ref.conv(6), {"kind": "shortcut", "from": -2, "activation": "leaky"}],
    "grouped convolution": [ref.conv(8), ref.conv(12, groups=4)],
    "depthwise convolution": [ref.conv(8), ref.conv(8, groups=8)],
    "padding given in pixels": [ref.conv(8, 5, pad=0, padding=1), ref.conv(8, 3, pad=0)],
    "stride 3": [ref.conv(8, 3, 3)],
    "route of one group of several layers": [
        *(ref.conv(8), ref.conv(4)), ref.route("-1,-2", groups=2, group_id=1),
    ],
    "route by number from the start": [ref.conv(8), ref.conv(4), ref.route("0")],
    "dropout in a shortcut": [
        *(ref.conv(6), ref.conv(6), {"kind": "dropout", "probability": 0.15}),
        {"kind": "shortcut", "from": -3, "activation": "linear"},
    ],
    "upsample by 3": [ref.conv(8, stride=2), {"kind": "upsample", "stride": 3}],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS, ids=str)
def test_other_layers(tmp_path, name):
    assert_same(*import_and_run(tmp_path, [*OTHERS[name], *SMALL_HEAD], 18, 12)[1:])


def test_first_of_equal_options_counts_and_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "net.cfg"
    text = "[net]\nwidth=32\nwidth=64\nheight=32\n[convolutional]\nfilters=18\n[yolo]\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"anchors=1,1,2,2,3,3\nnum=3\nclasses=1\n")
    assert read_config(path).width == 32


def test_batch_has_the_outputs_of_single_images(tmp_path):
    import_and_run(tmp_path, FAMILIES["yolov4-tiny"], 64, 64)
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    together = session.run(None, {"image": images})
    for i in range(3):
        for all_heads, head in zip(
            together, session.run(None, {"image": images[i : i + 1]}), strict=True
        ):
            np.testing.assert_allclose(all_heads[i], head[0], rtol=1e-5, atol=1e-5)


def test_metadata_contain_everything_that_decoding_needs(tmp_path):
    summary, _, _ = import_and_run(tmp_path, FAMILIES["yolov4-tiny"], 96, 64, letter_box=1)
    session = ort.InferenceSession(str(summary.path), providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    spec = decode_spec(text, "net.onnx")
    assert spec == summary.spec
    assert (spec.input.width, spec.input.height, spec.input.fit) == (96, 64, "letterbox")
    assert spec.head.outputs[0].anchors == ((81, 82), (135, 169), (344, 319))
    assert spec.head.outputs[1].anchors == ((23, 27), (37, 58), (81, 82))
    assert [output.scale_x_y for output in spec.head.outputs] == [1.05, 1.05]
    assert spec.labels == ("class 0", "class 1", "class 2", "class 3")


def test_80_classes_get_coco_labels(tmp_path):
    summary, _, _ = import_and_run(tmp_path, FAMILIES["yolov4-tiny, 80 classes"], 32, 32)
    assert summary.spec.labels == COCO_LABELS


def test_weights_of_the_oldest_version_have_a_short_header(tmp_path):
    layers = [ref.conv(6), *SMALL_HEAD]
    network = ref.Network(layers)
    config = ref.write_config(tmp_path / "net.cfg", layers, 16, 16)
    new = network.write_weights(tmp_path / "new.weights")
    old = network.write_weights(tmp_path / "old.weights", version=(0, 1))
    assert old.stat().st_size == new.stat().st_size - 4
    import_model(config, new, tmp_path / "new.onnx", name="net")
    import_model(config, old, tmp_path / "old.onnx", name="net")
    assert (tmp_path / "old.onnx").read_bytes() == (tmp_path / "new.onnx").read_bytes()


def test_labels_are_read_one_per_line(tmp_path):
    path = tmp_path / "x.names"
    path.write_text("cat\r\n traffic light \n\n\n")
    assert read_labels(path) == ["cat", "traffic light"]


def test_official_network_has_the_published_size(shared, tmp_path):
    summary = import_model(
        shared / "models/yolov4-tiny.cfg",
        shared / "models/yolov4-tiny.weights",
        tmp_path / "yolov4-tiny.onnx",
    )
    assert summary.parameters / 1e6 == pytest.approx(6.06, abs=0.02)
    assert summary.multiply_adds / 1e9 == pytest.approx(3.45, abs=0.02)
    assert [shape[1:] for shape in summary.heads] == [(13, 13), (26, 26)]


def test_official_network_has_the_outputs_of_the_reference(shared, tmp_path):
    """Real weights in the reference, with the cfg read by this test itself."""
    layers = [
        {"kind": "convolutional", **ref.LEAKY, **layer}
        if layer["kind"] == "convolutional" else layer
        for layer in _plain_read(shared / "models/yolov4-tiny.cfg")
    ]  # fmt: skip
    network = ref.Network(layers)
    numbers = np.fromfile(shared / "models/yolov4-tiny.weights", "<f4", offset=20)
    for found in network.parameters.values():
        for name in ("bias", "scale", "mean", "variance", "weight"):
            if name in found:
                count = found[name].size
                found[name] = numbers[:count].reshape(found[name].shape)
                numbers = numbers[count:]
    assert numbers.size == 0
    config = shared / "models/yolov4-tiny.cfg"
    summary = import_model(
        config, shared / "models/yolov4-tiny.weights", tmp_path / "yolov4-tiny.onnx"
    )
    image = np.random.default_rng(3).integers(0, 256, (416, 416, 3), dtype=np.uint8)
    session = ort.InferenceSession(str(summary.path), providers=["CPUExecutionProvider"])
    found = [head[0] for head in session.run(None, {"image": image[None]})]
    for a, b in zip(found, network(image), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def _plain_read(path: Path) -> list[dict]:
    layers: list[dict] = []
    for line in path.read_text().splitlines():
        text = line.replace(" ", "")
        if text.startswith("["):
            layers.append({"kind": text[1:-1]})
            if text == "[convolutional]":
                layers[-1]["batch_normalize"] = 0
        elif text and not text.startswith("#"):
            name, value = text.split("=")
            layers[-1][name] = int(value) if value.lstrip("-").isdigit() else value
    return layers[1:]
