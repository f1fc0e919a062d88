"""`vision evaluate`: known figures on known images, its files and its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from pipeline.inference.session import open_model
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.onnx_file import load_graph, save_model
from recipes.accuracy import measure_detectors

MODELS = Path(__file__).resolve().parents[2] / "models"
CAT = MODELS / "samples/cat.jpg"


@pytest.fixture
def labelled(tmp_path):
    """The sample image of the cat with its box, as a YOLO-format folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images/cat.jpg").write_bytes(CAT.read_bytes())
    (tmp_path / "labels/cat.txt").write_text("15 0.5 0.5 0.9 1.0\n")
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    """The sample image of the cup, as a folder for a classifier."""
    (tmp_path / "photos/espresso").mkdir(parents=True)
    (tmp_path / "photos/espresso/1.jpg").write_bytes((MODELS / "samples/coffee.jpg").read_bytes())
    return tmp_path / "photos"


def test_figures_of_a_detector_go_to_the_terminal_a_file_and_a_plot(vision, labelled):
    target, plot = labelled / "figures.json", labelled / "curves.png"
    outcome = vision("evaluate", "yolov4-tiny-int8", labelled, "--json", target, "--plot", plot)
    assert outcome.code == 0, outcome.err
    report = json.loads(target.read_text())
    assert report["metrics"]["AP50"] == pytest.approx(100)
    assert set(report["metrics"]) == {"AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"}
    assert report["classes"]["cat"]["boxes"] == 1
    assert (report["pictures"], report["skipped"]) == (1, 0)
    assert (report["score"], report["nms"], report["nms_kind"]) == (0.001, 0.45, "iou")
    assert "100.0" in outcome.out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figures_of_a_classifier_go_to_a_file_and_a_plot(vision, photos):
    target, plot = photos.parent / "figures.json", photos.parent / "confusion.svg"
    outcome = vision("evaluate", "mobilenetv2-int8", photos, "--json", target, "--plot", plot)
    assert outcome.code == 0, outcome.err
    report = json.loads(target.read_text())
    assert report["metrics"] == {"top1": 100.0, "top5": 100.0}
    assert report["classes"] == {"espresso": {"top1": 100.0, "pictures": 1}}
    assert "<svg" in plot.read_text()


def test_images_of_a_list_can_be_elsewhere_and_classes_can_share_a_label(vision, photos, tmp_path):
    """Class 967 is espresso. Two classes with one label stay separate."""
    spec = open_model("mobilenetv2-int8").spec
    labels = [
        spec.labels[967] if number == 1 else label for number, label in enumerate(spec.labels)
    ]
    model = load_graph(MODELS / "mobilenetv2-int8.onnx")
    save_model(model, msgspec.structs.replace(spec, labels=tuple(labels)), tmp_path / "twins.onnx")
    (tmp_path / "list.txt").write_text("espresso/1.jpg 967")
    target = tmp_path / "figures.json"
    options = ("--images", photos, "--json", target)
    assert vision("evaluate", tmp_path / "twins.onnx", tmp_path / "list.txt", *options).code == 0
    assert list(json.loads(target.read_text())["classes"]) == ["espresso (967)"]


def test_a_detector_that_finds_nothing_scores_zero_and_has_an_empty_plot(vision, labelled):
    plot = labelled / "curves.png"
    outcome = vision("evaluate", "yolov4-tiny-int8", labelled, "--score", 1, "--plot", plot)
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        f"vision: {labelled}: has no class names; its class numbers are the model's",
        "vision: detecting (1)",
    ]
    assert "0.0" in outcome.out
    assert plot.exists()


def test_a_detector_is_measured_as_for_its_model_card(vision, shared, tmp_path):
    """On a few images only; the figures of the model card have a test of their own."""
    data = shared / "images/coco-val128"
    (tmp_path / "images").mkdir()
    for path in sorted((data / "images").iterdir())[:12]:
        (tmp_path / "images" / path.name).symlink_to(path)
    (tmp_path / "labels").symlink_to(data / "labels")
    model = MODELS / "yolov4-tiny-int8.onnx"
    darknet, plain = measure_detectors([model], read_yolo_folder(tmp_path))
    target = tmp_path / "figures.json"
    assert vision("evaluate", model, tmp_path, "--json", target).code == 0
    metrics = json.loads(target.read_text())["metrics"]
    assert (metrics["AP"], metrics["AP50"]) == pytest.approx(plain.accuracy[:2], abs=1e-6)
    options = ("--nms", darknet.nms_threshold, "--nms-kind", "darknet")
    assert vision("evaluate", model, tmp_path, "--json", target, *options).code == 0
    metrics = json.loads(target.read_text())["metrics"]
    assert (metrics["AP"], metrics["AP50"]) == pytest.approx(darknet.accuracy[:2], abs=1e-6)


WRONG = {
    "no-such-data": (["yolov4-tiny-int8", "none"], "none: expected a COCO JSON file, "),
    "no-such-model": (["yolov4-tiny-int9", "."], "did you mean yolov4-tiny-int8?"),
    "plot-of-unknown-format": (
        ["yolov4-tiny-int8", ".", "--plot", "a.gif"],
        "ends in .png, .svg, ",
    ),
    "no-such-nms": (
        ["yolov4-tiny-int8", ".", "--nms-kind", "x"],
        "--nms-kind: expected iou or darknet",
    ),
    "score-too-high": (
        ["yolov4-tiny-int8", ".", "--score", "2"],
        "--score: expected a number from 0 to 1",
    ),
    "class-too-high": (["yolov4-tiny-int8", "high"], "as the model has 80 labels, but got 80"),
    "damaged-images": (
        ["yolov4-tiny-int8", "damaged"],
        "1 or more of 1 images cannot be decoded",
    ),
    "no-truth": (["yolov4-tiny-int8", "plain"], "expected images with true boxes"),
    "unwritable": (["yolov4-tiny-int8", ".", "--json", "none/a.json"], "there is no folder none"),
    "two-in-one": (
        ["yolov4-tiny-int8", ".", "--json", "a.png", "--plot", "a.png"],
        "--plot a.png: is the file of --json too; choose another",
    ),
    "images-twice": (["mobilenetv2-int8", ".", "--images", "."], "but the images are in ."),
    "over-a-plot": (
        ["yolov4-tiny-int8", ".", "--plot", "images/cat.png"],
        "--plot images/cat.png: is a file of the input",
    ),
    "over-its-data": (["yolov4-tiny-int8", "a.json", "--json", "a.json"], "choose another name"),
    "missing-manifest": (["mine.onnx", ".", "--manifest", "none.toml"], "none.toml: cannot be"),
    "empty-model": (["empty.onnx", "."], "empty.onnx: not a usable ONNX model"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_invalid_input_of_evaluate_is_one_line(vision, labelled, monkeypatch, arguments, message):
    monkeypatch.chdir(labelled)
    image = CAT.read_bytes()
    labels = {"high": "80 0.5 0.5 1 1", "damaged": "15 0.5 0.5 1 1", "plain": ""}
    for name, content in (("high", image), ("damaged", b"x"), ("plain", image)):
        for part in ("images", "labels"):
            Path(name, part).mkdir(parents=True)
        Path(name, "images/cat.jpg").write_bytes(content)
        Path(name, "labels/cat.txt").write_text(labels[name])
    Path("empty.onnx").touch()
    shutil.copy("images/cat.jpg", "images/cat.png")
    before = set(labelled.rglob("*"))
    outcome = vision("evaluate", *arguments)
    errors = [line for line in outcome.err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert outcome.code == 2
    assert outcome.out == ""
    assert set(labelled.rglob("*")) == before
