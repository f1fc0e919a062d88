"""The detector of the package: its metadata, accuracy and recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.zoo.darknet.importer import COCO_LABELS, import_model
from pipeline.zoo.datasets.image_folders import list_images
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.evaluation import timing
from pipeline.zoo.evaluation.timing import measure_speed
from pipeline.zoo.onnx_file import load_model
from recipes.accuracy import measure_detectors
from recipes.detector import calibration_batches, quantize_detector

from ..darknet import darknet_reference as ref

MODEL = Path(__file__).resolve().parents[3] / "models/yolov4-tiny-int8.onnx"


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The float network of the official files."""
    folder = tmp_path_factory.mktemp("official")
    files = (shared / "models/yolov4-tiny.cfg", shared / "models/yolov4-tiny.weights")
    return import_model(*files, folder / "yolov4-tiny.onnx").path


@pytest.fixture
def small(tmp_path):
    """A float network of the same layout with few channels."""
    layers = ref.yolov4_tiny(3, 4)
    config = ref.write_config(tmp_path / "small.cfg", layers, 96, 64)
    weights = ref.Network(layers).write_weights(tmp_path / "small.weights")
    return import_model(config, weights, tmp_path / "small.onnx").path


def test_file_is_small_and_states_its_source():
    assert MODEL.stat().st_size <= 6_600_000
    _, spec = load_model(MODEL)
    assert spec.name == MODEL.stem
    assert spec.labels == COCO_LABELS
    assert "AlexeyAB/darknet" in spec.source
    assert spec.licence
    assert spec.head.outputs[1].anchors == ((23, 27), (37, 58), (81, 82))


@pytest.mark.slow
def test_accuracy_equals_the_model_card(shared, official):
    images = read_yolo_folder(shared / "images/coco-val128")
    by_kind = {
        (figure.model, figure.nms_kind): figure.accuracy
        for figure in measure_detectors((official, MODEL), images)
    }
    assert by_kind["yolov4-tiny", "darknet"].ap >= 26.9
    assert by_kind["yolov4-tiny", "iou"].ap50 >= 48.9
    for kind in ("darknet", "iou"):
        in_float, in_int8 = by_kind["yolov4-tiny", kind], by_kind[MODEL.stem, kind]
        assert in_int8.ap >= in_float.ap - 1.0
        assert in_int8.ap50 >= in_float.ap50 - 1.0


def test_both_models_are_timed_on_one_core_first(official, monkeypatch):
    monkeypatch.setattr(timing, "_ROUNDS", 8)  # the times are not checked
    timings = measure_speed(official, MODEL)
    assert timings[0].threads == 1
    assert all(t.float32_ms > 0 and t.int8_ms > 0 and t.speedup > 0 for t in timings)


def test_recipe_is_deterministic_and_names_the_model(shared, small, tmp_path):
    _, spec = load_model(small)
    images = list_images(shared / "images/coco-train128/images")[:4]
    batches = calibration_batches(images, spec.input)
    assert batches[0].shape == (1, 64, 96, 3)
    for folder in ("a", "b"):
        quantize_detector(small, tmp_path / folder / "small-int8.onnx", batches)
    first, second = (tmp_path / f"{f}/small-int8.onnx" for f in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert load_model(first)[1].name == "small-int8"
