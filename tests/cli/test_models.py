"""`vision models`, and the offer to download a model that a run needs."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
from pathlib import Path

import pytest

from pipeline.cli.progress import offer_models
from pipeline.errors import ModelError

from ..zoo import file_server

ROOT = Path(__file__).resolve().parents[2]
CAT = ROOT / "models/samples/cat.jpg"
DETECTOR = ROOT / "models/yolov4-tiny-int8.onnx"
ENTRY = """
[models.{name}]
task = "detect"
family = "YOLOv4-tiny"
about = "the shipped one by another name"
licence = "public domain"
parameters = 6_000_000
published = {{ AP50 = 40.2 }}
published_source = "a paper"
[[models.{name}.files]]
name = "{name}.onnx"
bytes = {size}
sha256 = "{sha256}"
sources = [{{ url = "{url}" }}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of models whose registry has `remote`, which the server has, and `absent`."""
    data = DETECTOR.read_bytes()
    server = file_server.FileServer(data)
    facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "registry.toml").write_text(
        "version = 1\n"
        + ENTRY.format(name="remote", url=server.url("good"), **facts)
        + ENTRY.format(name="absent", url=server.url("missing"), **facts)
    )
    monkeypatch.setenv("VISION_MODELS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield folder
    server.close()


def test_pull_prints_the_path_and_the_list_shows_it(vision, folder):
    assert "not downloaded" in line_of(vision("models", "list").out, "remote")
    outcome = vision("models", "pull", "remote")
    assert (outcome.code, outcome.out) == (0, f"{folder / 'remote.onnx'}\n")
    assert "downloading remote.onnx (6.1 MB)" in outcome.err
    assert (folder / "remote.onnx").read_bytes() == DETECTOR.read_bytes()
    line = line_of(vision("models", "list").out, "remote")
    assert "416x416" in line
    assert "AP50 40.2 %" in line
    assert str(folder / "remote.onnx") in line
    assert vision("models", "path", "remote").out == f"{folder / 'remote.onnx'}\n"


def line_of(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(name))


def test_info_describes_a_model_before_and_after_download(vision, folder):
    out = vision("models", "info", "remote").out
    for text in ("public domain", "AP50 40.2 %: a paper", "6.00 M", "SHA-256", "/good/file.bin"):
        assert text in out
    assert "vision models pull remote" in out
    out = vision("models", "info", "yolov4-tiny-int8").out
    assert "image uint8 BGR [N, 416, 416, 3], stretch" in out
    assert "head0: anchors" in out
    assert "80: person ... toothbrush" in out


def test_verify_reports_a_damaged_model(vision, folder):
    vision("models", "pull", "remote")
    outcome = vision("models", "verify", "remote", "yolov4-tiny-int8")
    assert outcome.code == 0
    assert "intact" in line_of(outcome.out, "remote")
    with (folder / "remote.onnx").open("ab") as file:
        file.write(b"x")
    outcome = vision("models", "verify")
    assert outcome.code == 2
    assert "expected cf8a" in line_of(outcome.out, "remote")
    assert "error: checksum mismatch: remote; delete the file" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", "nonsense"], 2, "model nonsense: not in the registry; known are: "),
        (["pull", "mobilenetv2-int8"], 2, "is part of the package"),
        (["pull", "absent"], 1, "no source delivers absent.onnx: "),
        (["info", "remot"], 2, "did you mean remote?"),
        (["path", "remote"], 2, "'vision models pull remote' fetches it (6.1 MB)"),
    ],
    ids=["unknown", "travelling", "gone", "misspelled", "not-here"],
)
def test_unavailable_models_are_one_line(vision, folder, arguments, code, message):
    outcome = vision("models", *arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert outcome.err.splitlines()[-1].startswith("vision: error: ")
    assert outcome.out == ""


def test_a_damaged_registry_is_one_line(vision, folder):
    (folder / "registry.toml").write_text("version = 1\n[models.'../x']\n")
    outcome = vision("models", "list")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "registry.toml" in outcome.err


RUN = ("run", CAT, "--classifier", "none", "--jsonl", "-", "--detector")


def test_a_run_downloads_its_model_with_yes(vision, folder):
    outcome = vision(*RUN, "remote", "--yes")
    assert outcome.code == 0, outcome.err
    assert '"label":"cat"' in outcome.out.replace(" ", "")


def test_a_run_without_a_terminal_does_not_download_without_yes(vision, folder):
    outcome = vision(*RUN, "remote")
    assert outcome.code == 2
    assert outcome.err == (
        "vision: error: model remote (6.1 MB): not on this machine yet; download it with "
        "'vision models pull remote', or give --yes\n"
    )
    assert not (folder / "remote.onnx").exists()


def test_a_name_with_a_dot_is_not_a_path(folder):
    text = (folder / "registry.toml").read_text()
    (folder / "registry.toml").write_text(text.replace("models.remote", 'models."v1.0"'))
    with pytest.raises(ModelError, match=r"model v1\.0 .*not on this machine yet; download it"):
        offer_models(["v1.0"], yes=False)


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"y\n", 0), (b"\n", 0), (b"n\n", 2), (b"\x04", 2)],
    ids=["y", "enter", "n", "ctrl-d"],
)
def test_a_user_at_a_terminal_is_asked(start, folder, answer, code):
    terminal, side = pty.openpty()
    process = start(*RUN, "remote", stdin=side, stderr=side)
    os.close(side)
    shown = b""
    while b"download it now? [Y/n]" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, answer)
    while True:
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # the other side has closed
            break
    process.wait(60)
    os.close(terminal)
    assert process.returncode == code, shown
    assert (folder / "remote.onnx").exists() is (code == 0)
    assert (b"remote.onnx" in shown) is (code == 0)


def test_a_manifest_describes_the_detector_of_a_run(vision, folder, tmp_path):
    """A manifest takes precedence over the description in the file; here it has other labels."""
    shutil.copy(DETECTOR, tmp_path / "mine.onnx")
    names = [f"thing {number}" for number in range(80)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "mine.toml").write_text(
        'task = "detect"\nlabels = "names.txt"\n'
        "anchors = [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]\n"
        "[input]\nwidth = 416\nheight = 416\n"
        '[[heads]]\noutput = "head0"\nmask = [3, 4, 5]\nscale_x_y = 1.05\n'
        '[[heads]]\noutput = "head1"\nmask = [1, 2, 3]\nscale_x_y = 1.05\n'
    )
    outcome = vision(*RUN, tmp_path / "mine.onnx", "--manifest", tmp_path / "mine.toml")
    assert outcome.code == 0, outcome.err
    assert '"label":"thing15"' in outcome.out.replace(" ", "")
    (tmp_path / "names.txt").write_text("\n".join(names[:79]))
    outcome = vision(*RUN, tmp_path / "mine.onnx", "--manifest", tmp_path / "mine.toml")
    assert outcome.code == 2
    assert "expected output head0 tensor(float) [N, 252, N, N] for 79 labels, but" in outcome.err


def test_a_manifest_without_use_is_refused(vision, tmp_path):
    (tmp_path / "c.toml").write_text(
        'task = "classify"\nlabels = ["a"]\n[input]\nwidth = 8\nheight = 8\n'
    )
    outcome = vision(*RUN, "yolov4-tiny-int8", "--manifest", tmp_path / "c.toml")
    assert outcome.code == 2
    assert "c.toml: describes a classifier, but --classifier is none" in outcome.err


def test_a_copy_of_a_registered_model_is_recognised_by_its_contents(vision, folder, tmp_path):
    shutil.copy(DETECTOR, tmp_path / "copy.onnx")
    assert "intact yolov4-tiny-int8" in vision("models", "verify", tmp_path / "copy.onnx").out
    assert "licence" in vision("models", "info", tmp_path / "copy.onnx").out


def test_the_path_of_a_model_is_printed_though_another_fails(vision, folder):
    outcome = vision("models", "pull", "remote", "absent")
    assert (outcome.code, outcome.out) == (1, f"{folder / 'remote.onnx'}\n")
    (folder / "remote.onnx").unlink()
    assert vision("models", "pull", "remote", "unheard-of").code == 2
    assert not (folder / "remote.onnx").exists()
