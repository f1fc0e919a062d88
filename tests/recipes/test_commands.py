"""`make models` and `make accuracy` with missing inputs: they report them and do the rest."""

from __future__ import annotations

import json

import pytest

from recipes import accuracy, build


@pytest.fixture
def offline(monkeypatch):
    """pip without an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_build_reports_what_is_missing_for_each_file(offline, tmp_path, caplog):
    arguments = ["--data", tmp_path / "none", "--out", tmp_path / "out", "--work", tmp_path / "w"]
    code = build.main([str(argument) for argument in arguments])
    assert code == build.EXIT_FAULT  # the samples could not be downloaded
    text = caplog.text
    assert "samples: not built: scikit-image" in text
    assert "yolov4-tiny-int8.onnx: not built:" in text
    assert f"{tmp_path / 'none/images/coco-train128/images'}: expected a folder" in text
    assert "mobilenetv2-int8.onnx: not built:" in text
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_accuracy_reports_what_is_missing_and_writes_the_rest(offline, tmp_path, caplog):
    report = tmp_path / "report.json"
    arguments = ["--data", tmp_path / "none", "--json", report, "--work", tmp_path / "w"]
    code = accuracy.main([str(argument) for argument in arguments])
    assert code == accuracy.EXIT_BAD_INPUT
    assert "detector: not measured: " in caplog.text
    assert "classifier: not measured: " in caplog.text
    assert set(json.loads(report.read_text())) == {"onnxruntime", "machine"}
