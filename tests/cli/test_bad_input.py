"""Bad input of every kind gives one line and exit code 2."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"


def huge_png() -> bytes:
    """A valid PNG header that promises 40000 x 40000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with one file of every kind of bad input."""
    monkeypatch.chdir(tmp_path)
    Path("words.mp4").write_text("these are words\n" * 50)
    Path("noise.mp4").write_bytes(bytes(range(256)) * 400)
    Path("empty.mp4").touch()
    Path("huge.png").write_bytes(huge_png())
    Path("folder").mkdir()
    Path("folder", "readme.txt").write_text("no images here")
    Path("damaged.onnx").write_bytes((MODELS / "yolov4-tiny-int8.onnx").read_bytes()[:100_000])
    Path("unknown-key.yaml").write_text("scor: 0.5\n")
    Path("bad-value.yaml").write_text("source: 'scene:'\nscore: high\n")
    Path("bad-switch.yaml").write_text("every-frame: 3\n")
    Path("list.yaml").write_text("- score\n")
    Path("broken.yaml").write_text("score: [\n")
    return tmp_path


SOURCES = {
    "none-given": ([], "SOURCE is missing; expected a camera number"),
    "empty-text": ([""], "expected a camera number"),
    "missing-file": (["nothing.mp4"], "'nothing.mp4': no such file"),
    "misspelled-file": (["word.mp4"], "did you mean words.mp4?"),
    "text-as-video": (["words.mp4"], "the file is text; expected a video"),
    "noise-as-video": (["noise.mp4"], "noise.mp4: not a video that can be read"),
    "empty-file": (["empty.mp4"], "the file is empty; expected a video"),
    "image-too-large": (["huge.png"], "40000"),
    "folder-without-images": (["folder"], "holds no images"),
    "glob-without-match": (["*.jpg"], "*.jpg: the pattern matches no files"),
    "camera-absent": (["63"], "camera /dev/video63: No such file or directory"),
    "device-that-is-no-camera": (["/dev/null"], "camera /dev/null: not a camera device"),
    "unknown-scheme": (["gopher://robot/cam"], "unknown kind 'gopher://'"),
    "nothing-listens": (
        ["http://127.0.0.1:9/stream", "--open-timeout", "1"],
        "http://127.0.0.1:9: nothing answers on port 9",
    ),
    "scene-misspelled": (["scene:?siez=640x480"], "siez"),
}
MODELS_GIVEN = {
    "unknown-name": (["--detector", "yolov4-tiny-int9"], "did you mean yolov4-tiny-int8?"),
    "no-such-file": (["--detector", "mine/model.onnx"], "model mine/model.onnx: no such file"),
    "damaged": (["--detector", "damaged.onnx"], "damaged.onnx: not a usable ONNX model"),
    "classifier-as-detector": (
        ["--detector", "mobilenetv2-int8"],
        "expected a model that can detect, but it can classify",
    ),
    "detector-as-classifier": (
        ["--classifier", "yolov4-tiny-int8"],
        "expected a model that can classify, but it can detect",
    ),
}
OPTIONS = {
    "score-too-high": (["--score", "1.5"], "--score: expected a number from 0 to 1, but got 1.5"),
    "score-not-a-number": (["--score", "nan"], "--score: expected a number from 0 to 1"),
    "time-a-word": (
        ["--read-timeout", "abc"],
        "--read-timeout: expected a number of seconds greater than 0, but got 'abc'",
    ),
    "score-a-word": (["--score", "abc"], "--score: expected a number from 0 to 1, but got 'abc'"),
    "top-no-whole-number": (["--top", "2.5"], "--top: expected a whole number from 1 to 1000, but"),
    "nms-negative": (["--nms", "-0.1"], "--nms: expected a number from 0 to 1, but got -0.1"),
    "nms-kind-unknown": (["--nms-kind", "soft"], "--nms-kind: expected iou or darknet"),
    "top-zero": (["--top", "0"], "--top: expected a whole number from 1 to 1000, but got 0"),
    "threads-zero": (["--threads", "0"], "--threads: expected a whole number from 1"),
    "max-frames-zero": (["--max-frames", "0"], "--max-frames: expected a whole number of at least"),
    "duration-zero": (["--duration", "0"], "--duration: expected a number of seconds"),
    "open-timeout-zero": (["--open-timeout", "0"], "--open-timeout: expected a number of seconds"),
    "width-zero": (["--width", "0"], "--width: expected a number of pixels"),
    "fps-negative": (["--fps", "-1"], "--fps: expected frames per second"),
    "fourcc-short": (["--fourcc", "MJ"], "--fourcc: expected four characters such as MJPG"),
    "unknown-option": (["--thread", "2"], "No such option"),
    "value-missing": (["--score"], "--score"),
}
CONFIGS = {
    "no-such-file": ("absent.yaml", "config absent.yaml: cannot be read: No such file"),
    "unknown-key": ("unknown-key.yaml", "'scor' is not a setting; did you mean score?"),
    "bad-value": ("bad-value.yaml", "score: expected a number from 0 to 1, but got 'high'"),
    "bad-switch": ("bad-switch.yaml", "every-frame: expected true or false, but got 3"),
    "not-a-mapping": ("list.yaml", "expected lines such as 'score: 0.4'"),
    "not-yaml": ("broken.yaml", "not valid YAML"),
}
OUTPUTS = {
    "record-into-missing-folder": (["--record", "gone/a.mp4"], "there is no folder gone"),
    "record-of-unknown-kind": (["--record", "a.xyz"], "unknown video format '.xyz'"),
    "jsonl-is-a-folder": (["--jsonl", "folder"], "--jsonl folder: is a folder"),
    "stats-into-missing-folder": (["--stats", "gone/a.json"], "there is no folder gone"),
    "show-without-screen": (["--show"], "--show: there is no screen"),
}


def assert_refused(outcome, message):
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert outcome.err.startswith("vision: error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize(("arguments", "message"), SOURCES.values(), ids=SOURCES)
def test_a_source_that_cannot_be_used(vision, place, arguments, message):
    assert_refused(vision("run", *arguments), message)


@pytest.mark.parametrize(("arguments", "message"), MODELS_GIVEN.values(), ids=MODELS_GIVEN)
def test_a_model_that_cannot_be_used(vision, place, arguments, message):
    assert_refused(vision("run", "scene:", *arguments), message)


@pytest.mark.parametrize(("arguments", "message"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_out_of_its_range(vision, place, arguments, message):
    assert_refused(vision("run", "scene:", *arguments), message)


@pytest.mark.parametrize(("file", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_cannot_be_used(vision, place, file, message):
    assert_refused(vision("run", "scene:", "--config", file), message)


@pytest.mark.parametrize(("arguments", "message"), OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_that_cannot_be_written(vision, place, arguments, message):
    assert_refused(vision("run", "scene:", "--max-frames", "2", *arguments), message)


def test_an_unknown_command(vision):
    assert_refused(vision("rum"), "No such command 'rum'")


@pytest.mark.parametrize(
    ("target", "message"),
    [("gone/a.jpg", "there is no folder gone"), ("a.xyz", "not an image format"), ("a", "such as")],
    ids=["missing-folder", "unknown-kind", "no-suffix"],
)
def test_demo_refuses_an_image_that_cannot_be_written(vision, place, target, message):
    assert_refused(vision("demo", "-o", target), message)


CLASHES = {
    "jsonl-is-the-video": (["a.mp4", "--jsonl", "a.mp4"], "--jsonl a.mp4: is a file of the source"),
    "record-is-the-video": (["a.mp4", "--record", "a.mp4"], "--record a.mp4: is a file of the"),
    "stats-is-the-video": (["a.mp4", "--stats", "folder/../a.mp4"], "is a file of the source"),
    "jsonl-links-to-the-video": (["a.mp4", "--jsonl", "link"], "--jsonl link: is a file of the"),
    "jsonl-is-one-image": (["folder", "--jsonl", "folder/readme.txt"], "of the source"),
    "jsonl-matches-the-glob": (["a.*", "--jsonl", "a.mp4"], "of the source"),
    "stats-is-jsonl": (["a.mp4", "--jsonl", "x", "--stats", "./x"], "is the file of --jsonl too"),
    "record-is-stats": (["a.mp4", "--record", "x.mp4", "--stats", "x.mp4"], "of --record too"),
    "jsonl-is-the-model": (
        ["a.mp4", "--detector", "damaged.onnx", "--jsonl", "damaged.onnx"],
        "is a file of --detector",
    ),
    "stats-is-the-config": (
        ["a.mp4", "--config", "list.yaml", "--stats", "list.yaml"],
        "is a file of --config",
    ),
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "message"), CLASHES.values(), ids=CLASHES)
def test_outputs_never_overwrite_inputs_or_one_another(vision, place, arguments, message):
    Path("a.mp4").write_bytes(b"a video that must live")
    Path("link").symlink_to("a.mp4")
    Path("list.yaml").write_text("score: 0.5\n")
    before = contents(place)
    assert_refused(vision("run", *arguments), message)
    assert contents(place) == before


def test_demo_refuses_one_file_for_two_outputs(vision, place):
    assert_refused(vision("demo", "-o", "a.jpg", "--stats", "a.jpg"), "is the file of --stats too")


FAILING = {
    "source-missing": ["nothing.mp4"],
    "source-is-no-video": ["noise.mp4"],
    "record-of-unknown-kind": ["scene:", "--record", "a.xyz"],
    "record-into-missing-folder": ["scene:", "--record", "gone/a.mp4"],
    "model-mistyped": ["scene:", "--detector", "nothing"],
    "no-screen": ["scene:", "--show"],
}


@pytest.mark.parametrize("arguments", FAILING.values(), ids=FAILING)
def test_a_run_that_cannot_begin_leaves_earlier_results_alone(vision, place, arguments):
    for name in ("old.jsonl", "old.json", "old.mp4"):
        Path(name).write_text("earlier\n")
    before = contents(place)
    record = [] if "--record" in arguments else ["--record", "old.mp4"]
    outcome = vision("run", *arguments, *record, "--jsonl", "old.jsonl", "--stats", "old.json")
    assert_refused(outcome, "")
    assert contents(place) == before


def test_devices_may_take_several_outputs(vision):
    outcome = vision(
        *("run", "scene:?fps=0&size=320x240", "--max-frames", 1),
        *("--jsonl", "/dev/null", "--stats", "/dev/null"),
    )
    assert outcome.code == 0, outcome.err
    assert Path("/dev/null").is_char_device()
