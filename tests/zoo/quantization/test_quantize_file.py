"""Quantisation of a user's file: figures, choice of layers, and files after errors."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.errors import ConfigError, DependencyError, InputError, ModelError
from pipeline.inference.classifier import Classifier
from pipeline.inference.external import stored_bytes
from pipeline.inference.manifest import read_manifest
from pipeline.inference.session import open_model
from pipeline.zoo.architectures.yolov4_tiny import (
    YoloV4Tiny,
    build_yolov4_tiny,
    make_yolo_spec,
)
from pipeline.zoo.evaluation import classification
from pipeline.zoo.onnx_file import save_model
from pipeline.zoo.quantization.quantize import fewest_in_float, named_layers
from pipeline.zoo.quantization.quantize_file import AUTO, Request, quantize_file

from .. import small_networks as small

IMAGES = 48


@pytest.fixture
def request_for(tmp_path):
    """A request to quantise a small classifier with some images; tests change parts of it."""
    folder = tmp_path / "images_"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (50, 40)))
    model = small.write_classifier(tmp_path / "net.onnx")
    spec = read_manifest(small.write_manifest(tmp_path / "net.toml"))

    def make(**changes):
        settings = {"model": model, "output": tmp_path / "out.onnx", "images": folder, "spec": spec}
        return Request(**{**settings, **changes})

    return make


def silent(job, done, total):
    assert 0 <= done <= total


def fail_beyond_images(job, done, total):
    """Fail if anything but reading of images is reported."""
    assert job in ("checking images", "reading images")


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse"])
def test_int8_file_runs_without_manifest_and_agrees_with_float(request_for, method):
    request = request_for(method=method)
    report = quantize_file(request, silent)
    assert report.metric.name == "agreement with float"
    assert report.metric.images == IMAGES / 4
    assert report.calibrated_on == IMAGES * 3 / 4
    assert report.before == 100
    assert report.after >= 80
    assert report.bytes_before == request.model.stat().st_size
    assert all(t.float32_ms > 0 and t.int8_ms > 0 for t in report.timings)
    classify = Classifier(request.output, top=1)  # without a manifest
    assert classify.labels == small.LABELS
    assert classify.model.spec.name == "out"
    kinds = [node.op_type for node in onnx.load(request.output).graph.node]
    assert "QuantizeLinear" in kinds


def test_labels_are_used_to_measure(request_for, tmp_path):
    """Images are sorted by the answers of the float model, which is always right."""
    request = request_for()
    model = open_model(request.model, spec=request.spec)
    for path in request.images.iterdir():
        image = cv2.imread(str(path))
        answer = int(model.run(crop_of(image))[0].argmax())
        target = tmp_path / "labelled" / small.LABELS[answer]
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / path.name), image)
    report = quantize_file(request_for(test=tmp_path / "labelled"), silent)
    assert report.metric.name == "top-1"
    assert report.metric.images == report.calibrated_on == IMAGES
    assert report.before == 100
    assert report.loss == report.before - report.after


def crop_of(image):
    return classification.central_crop(image, 32, 32)[None]


def _spoil_for_int8(request):
    """One channel is thousands of times as large as the others, which then share few levels.

    The answers stay, but for a bias that makes all classes about equally frequent.
    """
    opened, model = open_model(request.model, spec=request.spec), onnx.load(request.model)
    answers = [opened.run(crop_of(cv2.imread(str(path)))) for path in request.images.iterdir()]
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w2":
            array[0] *= 3000
        elif tensor.name == "w3":
            array[:, 0] /= 3000
        elif tensor.name == "bias":
            array -= np.mean(answers, axis=0).ravel()
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, request.model)


def test_auto_finds_the_layer_that_int8_damages(request_for):
    request = request_for(keep_float=(AUTO,), max_loss=0.0)
    _spoil_for_int8(request)
    plain = quantize_file(request_for(), silent)
    assert plain.loss > 0
    report = quantize_file(request, silent)
    assert report.loss <= 0
    assert 1 <= len(report.float_layers) < report.layers


def test_auto_keeps_no_layer_in_float_without_loss(request_for):
    report = quantize_file(request_for(keep_float=(AUTO,), max_loss=100.0), silent)
    assert report.float_layers == []


def test_named_layers_stay_in_float(request_for):
    request = request_for(keep_float=("c*",))
    report = quantize_file(request, silent)
    assert report.float_layers
    assert set(report.float_layers) < {"c0", "c1", "c2", "answer.product"}
    stored = {t.name: t.data_type for t in onnx.load(request.output).graph.initializer}
    assert stored["w1"] == onnx.TensorProto.FLOAT


def test_unknown_layer_is_named_with_similar_layers():
    with pytest.raises(ConfigError, match="no such layer; did you mean conv12"):
        named_layers(["conv1", "conv12", "head"], ["convv12"])
    with pytest.raises(ConfigError, match="no such layer; layers: conv1, head"):
        named_layers(["conv1", "head"], ["zzz"])


@pytest.mark.parametrize("enough", [0, 1, 2, 3, 7, 20, 21])
def test_fewest_layers_are_found_with_few_measurements(enough):
    ranked, asked = [str(number) for number in range(20)], []

    def loss(layers):
        asked.append(len(layers))
        return 0.5 if len(layers) >= enough else 3.0

    assert len(fewest_in_float(ranked, loss, 1.0)) == min(enough, 20)
    assert len(asked) <= 12


def test_few_damaged_images_are_skipped_with_a_count(request_for, caplog):
    request = request_for()
    (request.images / "00.png").write_bytes(b"")
    (request.images / "01.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        quantize_file(request, silent)
    assert "skipped 2 of 48 images that cannot be decoded: 00.png, 01.png" in caplog.text
    assert len(caplog.records) == 1


def test_check_of_the_images_is_reported(request_for):
    """Large images are slow."""
    seen = []
    quantize_file(request_for(), lambda *told: seen.append(told))
    assert [told for told in seen if told[0] == "checking images"] == [
        ("checking images", done, IMAGES) for done in range(IMAGES + 1)
    ]
    calibrated_on = IMAGES * 3 // 4
    assert ("reading images", calibrated_on, calibrated_on) in seen


def test_many_damaged_images_are_an_error_and_leave_no_file(request_for):
    request = request_for()
    for path in sorted(request.images.iterdir())[:8]:
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"of 48 images cannot be decoded.*expected at most 10%"):
        quantize_file(request, silent)
    assert not request.output.exists()


@pytest.mark.parametrize("when", ["calibrating", "measuring"])
def test_interrupted_run_leaves_no_file(request_for, tmp_path, monkeypatch, when):
    request = request_for()
    request.output.write_bytes(b"what was there before")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def stop(job, done, total):
        if job == when:
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        quantize_file(request, stop)
    assert request.output.read_bytes() == b"what was there before"
    assert sorted(tmp_path.iterdir()) == before
    assert not list((tmp_path / "temporary").iterdir())


def test_int8_file_is_refused(request_for, tmp_path):
    quantize_file(request_for(), silent)
    with pytest.raises(ModelError, match="is an int8 model already"):
        quantize_file(
            request_for(model=tmp_path / "out.onnx", output=tmp_path / "again.onnx", spec=None),
            silent,
        )
    assert not (tmp_path / "again.onnx").exists()


SAID_AT_ONCE = {
    "a layer that there is not": ({"keep_float": ("head99",)}, "no such layer"),
    "labels that there are not": ({"test": Path("nowhere")}, "nowhere: expected a folder with"),
}


@pytest.mark.parametrize(("changes", "message"), SAID_AT_ONCE.values(), ids=SAID_AT_ONCE)
def test_wrong_input_is_reported_before_the_work(request_for, changes, message):
    with pytest.raises(InputError, match=message):
        quantize_file(request_for(**changes), fail_beyond_images)


def test_missing_listed_image_is_reported_before_the_work(request_for, tmp_path):
    (tmp_path / "list.txt").write_text("gone.png, red\n")
    with pytest.raises(InputError, match=r"1 of its 1 images are missing, .*gone\.png"):
        quantize_file(request_for(test=tmp_path / "list.txt"), fail_beyond_images)


def test_missing_pycocotools_is_reported_before_the_work(request_for, tmp_path, monkeypatch):
    folder = tmp_path / "labelled"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "images/00.png").write_bytes((tmp_path / "images_/00.png").read_bytes())
    (folder / "labels/00.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    model = tmp_path / "yolo.onnx"
    member = YoloV4Tiny(64, 1)
    save_model(build_yolov4_tiny(member), make_yolo_spec(member), model)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    request = request_for(model=model, spec=None, images=folder)
    with pytest.raises(DependencyError, match="pycocotools: needed to evaluate"):
        quantize_file(request, fail_beyond_images)


def test_size_includes_weights_in_other_files(request_for, tmp_path):
    model = onnx.load(tmp_path / "net.onnx")
    whole = (tmp_path / "net.onnx").stat().st_size
    onnx.save(
        model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data",
        size_threshold=0,
    )  # fmt: skip
    assert stored_bytes(tmp_path / "apart.onnx") == pytest.approx(whole, rel=0.5)
    assert stored_bytes(tmp_path / "apart.onnx") > (tmp_path / "apart.data").stat().st_size
