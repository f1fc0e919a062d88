"""The detector file that travels with the package: what it is, and that it is as good as said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.zoo.build_detector import calibration_batches, quantize_file
from pipeline.zoo.coco import list_pictures, read_yolo_folder
from pipeline.zoo.coco_labels import COCO_LABELS
from pipeline.zoo.darknet import import_model
from pipeline.zoo.detector_accuracy import measure_accuracy, measure_speed
from pipeline.zoo.onnx_file import load_model

MODEL = Path(__file__).parents[2] / "models/yolov4-tiny-int8.onnx"


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The float network of the official files."""
    folder = tmp_path_factory.mktemp("official")
    files = (shared / "models/yolov4-tiny.cfg", shared / "models/yolov4-tiny.weights")
    return import_model(*files, folder / "yolov4-tiny.onnx").path


def test_file_is_small_and_says_where_it_comes_from():
    assert MODEL.stat().st_size <= 6_600_000
    _, spec = load_model(MODEL)
    assert spec.name == MODEL.stem
    assert spec.labels == COCO_LABELS
    assert "AlexeyAB/darknet" in spec.source
    assert spec.licence
    assert spec.heads[1].anchors == ((23, 27), (37, 58), (81, 82))


@pytest.mark.slow
def test_accuracy_is_what_the_card_says(shared, official):
    pictures = read_yolo_folder(shared / "images/coco-val128")
    by_kind = {
        (figure.model, figure.nms_kind): figure.accuracy
        for figure in measure_accuracy((official, MODEL), pictures)
    }
    assert by_kind["yolov4-tiny", "darknet"].ap >= 26.9
    assert by_kind["yolov4-tiny", "iou"].ap50 >= 48.9
    for kind in ("darknet", "iou"):
        in_float, in_int8 = by_kind["yolov4-tiny", kind], by_kind[MODEL.stem, kind]
        assert in_int8.ap >= in_float.ap - 1.0
        assert in_int8.ap50 >= in_float.ap50 - 1.0


def test_both_models_are_timed_on_one_core_first(official):
    timings = measure_speed(official, MODEL)
    assert timings[0].threads == 1
    assert all(t.float32_ms > 0 and t.int8_ms > 0 and t.speedup > 0 for t in timings)


def test_recipe_makes_the_same_file_twice(shared, official, tmp_path):
    _, spec = load_model(official)
    pictures = list_pictures(shared / "images/coco-train128/images")[:4]
    batches = calibration_batches(pictures, spec.input)
    assert batches[0].shape == (1, 416, 416, 3)
    for folder in ("a", "b"):
        quantize_file(official, tmp_path / folder / "yolov4-tiny-int8.onnx", batches)
    first, second = (tmp_path / f"{f}/yolov4-tiny-int8.onnx" for f in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert load_model(first)[1].name == "yolov4-tiny-int8"
