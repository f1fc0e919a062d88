"""`vision quantize`, `head` and `compare`, and their messages for bad input."""

from __future__ import annotations

import html.parser
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.inference import processor
from pipeline.zoo.architectures.yolov4_tiny import YoloV4Tiny, build_yolov4_tiny, make_yolo_spec
from pipeline.zoo.onnx_file import save_model

from ..zoo import small_networks as small

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "models" / "samples"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A small float classifier with a manifest, and twelve images of two classes."""
    monkeypatch.chdir(tmp_path)
    small.write_classifier(tmp_path / "net.onnx")
    small.write_manifest(tmp_path / "net.toml")
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / ("red", "green")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = np.zeros((40, 50, 3), np.uint8)
        image[..., 2 - number % 2] = 200
        image += rng.integers(0, 50, image.shape, dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return tmp_path


def quantize(vision, *more, model="net.onnx"):
    manifest = ("--manifest", "net.toml") if model == "net.onnx" else ()
    settings = ("--images", "photos", "-o", "out.onnx", *manifest)
    return vision("quantize", model, *settings, *more)


def test_quantize_reports_accuracy_size_and_speed(vision, workshop):
    outcome = quantize(vision, "--test", "photos", "--method", "entropy")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert any(line.startswith("top-1, %") for line in lines)
    assert any(line.startswith("size, MB") for line in lines)
    assert any(line.startswith("ms per call, 1 thread") for line in lines)
    assert "calibrated on 12 images, measured on 12" in lines
    assert "calibrating" in outcome.err
    assert vision("models", "info", "out.onnx").code == 0


def test_quantize_warns_if_the_cpu_lacks_dot_products(vision, workshop, monkeypatch):
    monkeypatch.setattr(processor, "_DOT_PRODUCTS", set())
    assert "warning: this CPU has no int8 dot product" in quantize(vision).err
    monkeypatch.setattr(processor, "has_int8_dot_products", lambda features: True)
    assert "dot product" not in quantize(vision).err


def test_head_makes_a_classifier_that_runs(vision, workshop):
    outcome = vision("head", "--images", "photos", "-o", "mine.onnx")
    assert outcome.code == 0, outcome.err
    assert "top-1 100.0 % of 12 images" in outcome.out
    outcome = vision(
        "run", "photos/red", "--classifier", "mine.onnx", "--jsonl", "-", "--score", "0.01",
        "--max-frames", "1", "--top", "1", "-q",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A page that compares two classifiers, one of them with HTML in its name."""
    folder = tmp_path_factory.mktemp("comparison")
    name = "<script>document.title='broken'<&\"'.onnx"
    shutil.copy(ROOT / "models" / "mobilenetv2-int8.onnx", folder / name)
    code = main([
        "compare", str(SAMPLES), "--models", "mobilenetv2-int8", str(folder / name),
        "yolov4-tiny-int8", "-o", str(folder / "side.jpg"), "--html", str(folder / "page.html"),
    ])  # fmt: skip
    assert code == 0
    return folder


class Page(html.parser.HTMLParser):
    """Collects the tags, the table cells and the image sources."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.sources, self._is_cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        self._is_cell = tag == "td"
        if self._is_cell:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._is_cell = self._is_cell and tag != "td"

    def handle_data(self, data):
        if self._is_cell:
            self.cells[-1] += data


SOURCE = "yolov4-tiny-int8: AP50 40.2 by Darknet's README, for the float network at 416 pixels"


def test_page_is_self_contained_and_escapes_everything(comparison):
    text = (comparison / "page.html").read_text()
    page = Page(text)
    assert SOURCE in html.unescape(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "<script>document.title='broken'<&\"'" in page.cells
    assert "astronaut.jpg" in page.cells
    assert "100 %" in page.cells  # the same file twice agrees with itself


def test_side_by_side_image_has_a_column_for_each_model(comparison):
    image = cv2.imread(str(comparison / "side.jpg"))
    height, width = image.shape[:2]
    assert width > 3 * 480
    assert height > 3 * 200


@pytest.fixture
def browse(tmp_path_factory):
    """Start a headless browser; returns its output.

    A browser that crashes is started again, three times in all, because the page is not the cause.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")

    def browse(*arguments: object) -> str:
        failures = []
        for _ in range(3):
            command = [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--force-color-profile=srgb", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
            ]  # fmt: skip
            try:
                return subprocess.run(
                    [*command, *map(str, arguments)], check=True, capture_output=True, timeout=120
                ).stdout.decode()
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                failures.append(f"{error}: {error.stderr}")
        pytest.fail("\n".join(failures))

    return browse


def test_page_looks_right_in_a_browser(comparison, browse):
    page, shot = (comparison / "page.html").as_uri(), comparison / "shot.png"
    browse("--window-size=1200,1600", f"--screenshot={shot}", page)
    found = cv2.imread(str(shot))
    # The samples are in it: the astronaut's orange suit and the red saucer, on a light page.
    blue, green, red = (found[..., channel].astype(int) for channel in range(3))
    assert ((red > 150) & (green < 110) & (blue < 90)).mean() > 0.02
    assert (found.min(axis=2) > 235).mean() > 0.3
    text = browse("--dump-dom", page)
    assert "<title>broken" not in text
    assert text.count("<table>") == 2


def test_models_without_a_common_task_get_the_table_of_what_they_can_do(vision, workshop):
    outcome = vision(
        "compare", SAMPLES / "cat.jpg", "--models", "yolov4-tiny-int8", "mobilenetv2-int8",
        "-o", "side.jpg",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "No two of these models have a task in common" in outcome.out
    assert "locates objects" in outcome.out
    assert SOURCE in outcome.out
    assert "agreement" not in outcome.out
    assert not Path("side.jpg").exists()


def test_a_float_model_is_compared_with_its_int8_form(vision, workshop):
    assert quantize(vision).code == 0
    outcome = vision(
        "compare", "photos", "--models", "net.onnx", "out.onnx", "--manifest", "net.toml"
    )
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["out", "classification"]]
    assert row[4:6] == ["100", "%"]
    assert cv2.imread("vision-compare.jpg") is not None


def spoil_images(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:20])


def empty_folder(folder):
    for path in folder.rglob("*.png"):
        path.unlink()


def one_class(folder):
    shutil.rmtree(folder / "red")


def unknown_class(folder):
    (folder / "red").rename(folder / "violet")


BAD_IMAGES = {
    "empty folder": (empty_folder, "expected images"),
    "no folder": (shutil.rmtree, "there is no such folder"),
    "damaged": (spoil_images, "images cannot be decoded"),
}
COMMANDS = {
    "quantize": ("quantize", "net.onnx", "--manifest", "net.toml", "--images", "photos"),
    "head": ("head", "--images", "photos"),
}


def refused(vision, *arguments):
    """The error line of a command, which must leave all files as they were."""
    before = sorted(Path().rglob("*"))
    outcome = vision(*arguments)
    # libpng of older OpenCV has a line of its own for a damaged file.
    lines = [line for line in outcome.err.splitlines() if line.startswith("vision: error:")]
    assert outcome.code == 2, outcome.err
    assert len(lines) == 1
    assert "Traceback" not in outcome.err
    assert sorted(Path().rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
@pytest.mark.parametrize("name", BAD_IMAGES, ids=str)
def test_bad_images_are_one_line_and_write_nothing(vision, workshop, command, name):
    spoil, message = BAD_IMAGES[name]
    spoil(workshop / "photos")
    found = refused(vision, *COMMANDS[command], "-o", "out.onnx")
    assert message in found or "one sub-folder of images per class" in found


BAD_FILES = {
    "empty": b"",
    "no model": b"this is no model at all",
    "truncated": None,
    "image": "sample",
}


@pytest.mark.parametrize("name", BAD_FILES, ids=str)
@pytest.mark.parametrize("command", ["quantize", "head", "compare"])
def test_files_that_are_not_models_are_one_line(vision, workshop, name, command):
    content = BAD_FILES[name]
    if content is None:
        content = (ROOT / "models" / "mobilenetv2-int8.onnx").read_bytes()[:100_000]
    elif content == "sample":
        content = (SAMPLES / "cat.jpg").read_bytes()
    Path("bad.onnx").write_bytes(content)
    arguments = {
        "quantize": ("quantize", "bad.onnx", "--images", "photos", "-o", "out.onnx"),
        "head": ("head", "--classifier", "bad.onnx", "--images", "photos", "-o", "out.onnx"),
        "compare": ("compare", "photos", "--models", "mobilenetv2-int8", "bad.onnx"),
    }[command]
    assert "bad.onnx" in refused(vision, *arguments)


BAD_ARGUMENTS = {
    "method": (("--method", "best"), "expected one of mse, minmax"),
    "layer": (("--keep-float", "layer99"), "the network has no such layer"),
    "labels of other classes": (("--test", "other"), "classes are not among the model's 4 labels"),
    "no labels": (("--test", "nowhere"), "nowhere"),
    "output": (("-o", "out.txt"), "expected a file name that ends in .onnx"),
    "output is input": (("-o", "net.onnx"), "is a file of the input"),
    "no folder": (("-o", "none/out.onnx"), "there is no folder none"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS, ids=str)
def test_bad_arguments_of_quantize_are_one_line(vision, workshop, name):
    more, message = BAD_ARGUMENTS[name]
    shutil.copytree(workshop / "photos", workshop / "other")
    unknown_class(workshop / "other")
    found = refused(
        vision, "quantize", "net.onnx", "--images", "photos", "--manifest", "net.toml",
        "-o", "out.onnx", *more,
    )  # fmt: skip
    assert message in found


def test_labels_beyond_the_classes_are_one_line(vision, workshop):
    """Boxes of class 80; the detector has 0 to 79."""
    for part in ("images", "labels"):
        (workshop / "yolo" / part).mkdir(parents=True)
    shutil.copy(SAMPLES / "cat.jpg", workshop / "yolo/images/cat.jpg")
    (workshop / "yolo/labels/cat.txt").write_text("80 0.5 0.5 0.2 0.2\n")
    found = refused(vision, "evaluate", "yolov4-tiny-int8", "yolo")
    assert "expected classes 0 to 79" in found


def test_one_class_is_too_few_for_a_head(vision, workshop):
    one_class(workshop / "photos")
    found = refused(vision, "head", "--images", "photos", "-o", "mine.onnx")
    assert "two or more classes" in found


def test_compare_needs_two_models_and_an_image(vision, workshop):
    found = refused(vision, "compare", "photos", "--models", "mobilenetv2-int8")
    assert "expected two models or more" in found
    found = refused(
        vision, "compare", "nowhere.jpg", "--models", "mobilenetv2-int8", "yolov4-tiny-int8"
    )
    assert "nowhere.jpg: expected an image or a folder" in found
    for more in ("photos", "other.jpg"):
        found = refused(
            vision, "compare", "a.jpg", "--models", "mobilenetv2-int8", "yolov4-tiny-int8", more
        )
        assert f"--models {more}: is an image or a folder" in found
    Path("mobilenetv2-int8").mkdir()  # a folder named like a model is not an image
    found = refused(vision, "compare", "a.jpg", "--models", "mobilenetv2-int8", "mobilenetv2-int8")
    assert "a.jpg: expected an image or a folder" in found


TARGETS = {
    "model": (("-o", "other.jpg", "--html", "net.onnx"), "--html net.onnx: is a file of the input"),
    "image": (("-o", "photos/a.jpg"), "--output photos/a.jpg: is a file of the input"),
    "both in one": (("--html", "vision-compare.jpg"), "--html vision-compare.jpg: is the file of"),
    "no jpeg": (("-o", "a.png"), "expected a file name that ends in .jpg"),
    "no folder": (("-o", "none/a.jpg"), "there is no folder none"),
}


@pytest.mark.parametrize("name", TARGETS, ids=str)
def test_compare_never_overwrites_its_inputs(vision, workshop, name):
    arguments, message = TARGETS[name]
    shutil.copy(SAMPLES / "cat.jpg", "photos/a.jpg")
    models = ("--models", "mobilenetv2-int8", "net.onnx", "--manifest", "net.toml")
    assert message in refused(vision, "compare", "photos", *models, *arguments)


def test_a_signal_during_quantization_leaves_no_files(start, workshop, tmp_path):
    """The network is large, so that the signal comes during the quantization."""
    for path in sorted((workshop / "photos").rglob("*.png")):
        for copy in range(8):
            shutil.copy(path, path.with_name(f"{path.stem}-{copy}.png"))
    large = YoloV4Tiny(416, 80)
    save_model(build_yolov4_tiny(large), make_yolo_spec(large), workshop / "large.onnx")
    process = start("quantize", "large.onnx", "--images", "photos", "-o", "out.onnx")
    before = {path.name for path in tmp_path.iterdir()}
    for line in process.stderr:
        if b"calibrating" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert b"stopped; nothing was written" in errors
    assert {path.name for path in tmp_path.iterdir()} == before
