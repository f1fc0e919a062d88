"""Accuracy of classifiers on images of known classes."""

from __future__ import annotations

import struct
import zlib

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import InputError, ModelError
from pipeline.inference.session import open_model
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.datasets.classes import read_classes
from pipeline.zoo.datasets.image_folders import ReadableImages
from pipeline.zoo.evaluation.classification import (
    ClassifierReport,
    TopAccuracy,
    confusion,
    evaluate_classifier,
)
from pipeline.zoo.evaluation.classification import central_crop as crop_to_test

LABELS = ("blue", "green", "red, crimson")
COLORS = {"blue": (255, 0, 0), "green": (0, 255, 0), "crimson": (0, 0, 255)}


@pytest.fixture
def model(tmp_path):
    """A classifier of 8 x 8 images by their brightest channel."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    entry = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "g", [entry], [output])
    path = tmp_path / "channels.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    spec = ModelSpec(
        name="channels",
        task="classify",
        input=InputSpec(name="image", width=8, height=8),
        labels=LABELS,
        logits="logits",
    )
    return open_model(path, spec=spec)


@pytest.fixture
def photos(tmp_path):
    """Two images of each colour, in a folder of its name."""
    for name, color in COLORS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            image = np.full((20, 30, 3), color, np.uint8)
            cv2.imwrite(str(tmp_path / f"photos/{name}/{number}.png"), image)
    return tmp_path / "photos"


def measure(model, data):
    classes = read_classes(data, LABELS)
    return evaluate_classifier(model, classes, ReadableImages(data, list(classes)))


def test_folders_are_classes(model, photos):
    found = measure(model, photos)
    assert found.accuracy == TopAccuracy(100.0, 100.0)
    assert sorted(found.classes.tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "], ids=["comma", "tab", "space", "both"])
def test_list_may_name_or_number_the_classes(model, photos, separator):
    names = photos.parent / "list.txt"
    names.write_text(
        f"# image and class\n"
        f"photos/blue/0.png{separator}blue\n\nphotos/green/1.png{separator}blue\n"
    )
    found = measure(model, names)
    assert found.accuracy.top1 == 50.0
    assert (found.classes.tolist(), found.answers.tolist()) == ([0, 0], [0, 1])
    names.write_text(f"photos/blue/0.png{separator}0\nphotos/crimson/1.png{separator}2\n")
    assert measure(model, names).accuracy.top1 == 100.0


def test_nan_logits_are_refused(model, photos):
    spec = msgspec.structs.replace(model.spec, name="broken")
    graph = onnx.load(model.path)
    graph.graph.node[1].output[0] = "mean"
    graph.graph.node.append(helper.make_node("Div", ["mean", "zero"], ["endless"]))
    graph.graph.node.append(helper.make_node("Sub", ["endless", "endless"], ["logits"]))
    graph.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    onnx.save(graph, model.path)
    with pytest.raises(ModelError, match=r"channels\.onnx: expected logits that are numbers"):
        measure(open_model(model.path, spec=spec), photos)


def test_confusion_counts_answers_by_true_class():
    truth, answers = np.array([4, 4, 4, 7, 7]), np.array([4, 7, 1, 7, 7])
    table = confusion(ClassifierReport(TopAccuracy(0, 0), truth, answers))
    assert table.class_ids.tolist() == [4, 7]
    assert table.counts.tolist() == [[1, 1, 1], [0, 2, 0]]


@pytest.mark.parametrize(("width", "height"), [(160, 160), (128, 128), (96, 48), (300, 300)])
def test_central_crop_is_the_centre_of_the_image(width, height):
    """It is 7/8 of the largest area of that shape; the pixels contain their coordinates."""
    x, y = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 300))
    image = np.stack([x, y, x], axis=2).astype(np.uint8)
    crop = crop_to_test(image, width, height)
    assert crop.shape == (height, width, 3)
    kept_x, kept_y = np.ptp(crop[..., 0].astype(int)), np.ptp(crop[..., 1].astype(int))
    side = min(400 / width, 300 / height) * 7 / 8
    assert kept_x == pytest.approx(255 * side * width / 400, abs=4)
    assert kept_y == pytest.approx(255 * side * height / 300, abs=4)
    np.testing.assert_allclose(crop.reshape(-1, 3).mean(axis=0), 127.5, atol=2)


def test_few_damaged_images_are_skipped_and_many_refused(model, photos, caplog):
    for number in range(2, 12):
        image = np.full((20, 30, 3), COLORS["blue"], np.uint8)
        cv2.imwrite(str(photos / f"blue/{number}.png"), image)
    (photos / "green/0.png").write_bytes(b"no image")
    found = measure(model, photos)
    assert len(found.classes) == 15
    assert "skipped 1 of 16 images that cannot be decoded: 0.png" in caplog.text
    (photos / "green/1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="2 or more of 16 images cannot be decoded"):
        measure(model, photos)


WRONG = {
    "nothing": (lambda root: root / "none", "does not exist"),
    "empty-folder": (lambda root: root / "photos/blue", "expected one sub-folder of images"),
    "no-class": (lambda root: write(root, "photos/blue/0.png\n"), "line 1: expected an image and"),
    "empty-list": (lambda root: write(root, "\n# x\n"), "but it has none"),
    "binary-list": (
        lambda root: write(root, "\udcff"),
        "expected text in UTF-8, but byte 0 is not",
    ),
    "unknown-class": (
        lambda root: write(root, "photos/blue/0.png,bleu\n"),
        "1 of its 1 classes are not among the model's 3 labels: bleu; did you mean blue",
    ),
    "boxes": (
        lambda root: write(root, "{}").rename(root / "boxes.json"),
        "a text file of images and classes, but it is neither",
    ),
    "two-classes": (
        lambda root: write(root, "photos/blue/0.png,blue\nphotos/blue/0.png,green\n"),
        "line 2: photos/blue/0.png is 'green', but was 'blue' before",
    ),
    "endless-name": (
        lambda root: write(root, f"photos/blue/0.png,{'x' * 999}\n"),
        "labels: x{60}\\.\\.\\.$",
    ),
    "number-too-high": (
        lambda root: write(root, "photos/blue/0.png,3\n"),
        "expected classes 0 to 2, as the model has 3 labels, but got 3",
    ),
    "images-missing": (
        lambda root: write(root, "nowhere.png,blue\n"),
        "1 of its 1 images are missing, .*nowhere.png",
    ),
}


def write(root, text):
    (root / "list.txt").write_text(text, errors="surrogateescape")
    return root / "list.txt"


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_unusable_data_are_refused(model, photos, make, message):
    with pytest.raises(InputError, match=message):
        measure(model, make(photos.parent))


def test_image_with_too_many_pixels_counts_as_damaged(tmp_path):
    """A small file may state a huge size."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    readable = ReadableImages(tmp_path, [tmp_path / "huge.png"])
    with pytest.raises(InputError, match="1 or more of 1 images cannot be decoded"):
        list(readable)
