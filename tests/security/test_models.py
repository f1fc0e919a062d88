"""Model files that never end, or are larger than a model may be, are refused in every command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import ModelError
from pipeline.inference.external import MODEL_LIMIT, read_model, stored_bytes
from pipeline.inference.registry import file_sha256, find_model
from pipeline.inference.session import open_model

LIMIT_S = 20
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "yolov4-tiny-int8.onnx"


def pipe(path):
    os.mkfifo(path)


def zeros(path):
    path.symlink_to("/dev/zero")


def huge(path):
    path.touch()
    os.truncate(path, 2**40)  # has no contents on the disk


def folder(path):
    path.mkdir()


KINDS = {pipe: "a pipe", zeros: "a device", huge: "at most 1024.0 MiB", folder: "a folder"}


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def endless(request, tmp_path):
    """A file that never ends, and what the refusal says of it."""
    path = tmp_path / "endless.onnx"
    request.param(path)
    return path, KINDS[request.param]


@pytest.fixture(autouse=True)
def _bounded():
    """Fail instead of waiting for a pipe."""

    def late(*_):
        raise AssertionError("it waits for a file that never ends")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def images(tmp_path):
    """A folder with one image in a folder of its class."""
    place = tmp_path / "images" / "cat"
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "one.png"), np.zeros((32, 32, 3), np.uint8))
    return place.parent


COMMANDS = {
    "run-detector": "run scene: --detector {model}",
    "run-classifier": "run scene: --classifier {model}",
    "detect": "detect --subscribe zmq+ipc://{folder}/a --publish zmq+ipc://{folder}/b "
    "--detector {model}",
    "info": "models info {model}",
    "verify": "models verify {model}",
    "quantize": "quantize {model} --images {images} -o {folder}/small.onnx",
    "evaluate": "evaluate {model} {images}",
    "compare": "compare {images} {model} yolov4-tiny-int8 -o {folder}/out.jpg",
    "head": "head --images {images} --classifier {model} -o {folder}/new.onnx",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_reads_a_model_file_that_never_ends(endless, images, tmp_path, capfd, command):
    model, what = endless
    text = command.format(model=model, images=images, folder=tmp_path)
    assert main(text.split()) == 2
    said = capfd.readouterr().err
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1, said
    assert what in errors[0] or "unusable" in errors[0] or "checksum" in errors[0]
    assert str(model) in said
    assert "internal" not in said


@pytest.mark.parametrize("read", [find_model, file_sha256, read_model, stored_bytes, open_model])
def test_the_readers_refuse_a_file_that_never_ends(endless, read):
    model, what = endless
    if read is find_model and what.startswith("at most"):
        return  # its size is checked when it is opened
    with pytest.raises(ModelError, match=what):
        read(model)


@pytest.fixture
def with_weights_elsewhere(tmp_path):
    """A model whose weights lie in the file `weights` beside it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights",
        size_threshold=1000,  # the shapes stay inside
        convert_attribute=False,
    )
    return tmp_path / "model.onnx"


def test_weights_in_another_file_are_read_and_counted(with_weights_elsewhere):
    assert open_model(with_weights_elsewhere).spec.task == "detect"
    sizes = [with_weights_elsewhere.with_name(name).stat().st_size for name in
             ("model.onnx", "weights")]  # fmt: skip
    assert stored_bytes(with_weights_elsewhere) == sum(sizes)


@pytest.mark.parametrize("make", [pipe, huge, folder], ids=lambda make: make.__name__)
def test_weights_that_never_end_are_refused(with_weights_elsewhere, make):
    weights = with_weights_elsewhere.with_name("weights")
    weights.unlink()
    make(weights)
    what = "at most 1024 MiB" if make is huge else KINDS[make]
    with pytest.raises(ModelError, match=f"model.onnx: .*{what}"):
        open_model(with_weights_elsewhere)


def test_missing_weights_are_named(with_weights_elsewhere):
    with_weights_elsewhere.with_name("weights").unlink()
    with pytest.raises(ModelError, match="its weights in weights: cannot be read"):
        open_model(with_weights_elsewhere)


def test_the_largest_shipped_model_is_far_below_the_limit():
    assert 10 * max(path.stat().st_size for path in SHIPPED.parent.glob("*.onnx")) < MODEL_LIMIT


@pytest.mark.parametrize("part", ["cfg", "weights", "names"])
@pytest.mark.parametrize("make", [pipe, zeros, huge], ids=lambda make: make.__name__)
def test_import_reads_no_darknet_file_that_never_ends(tmp_path, capfd, part, make):
    pytest.importorskip("onnx")
    (tmp_path / "a.cfg").write_text("[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\n"
                                    "filters=18\nsize=1\nstride=1\nactivation=linear\n[yolo]\n"
                                    "mask=0,1,2\nanchors=1,1,2,2,3,3\nclasses=1\n")  # fmt: skip
    (tmp_path / "a.weights").write_bytes(bytes(20))
    (tmp_path / "a.names").write_text("cat\n")
    bad = tmp_path / f"a.{part}"
    bad.unlink()
    make(bad)
    command = "import-darknet {0}/a.cfg {0}/a.weights --names {0}/a.names -o {0}/out.onnx"
    assert main(command.format(tmp_path).split()) == 2
    said = capfd.readouterr().err
    assert said.startswith("vision: error: ")
    assert str(bad) in said
    assert len(said.splitlines()) == 1
