"""What the Python API says about arguments of another type or out of range."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import (
    Classifier,
    Detections,
    Detector,
    Frame,
    Pipeline,
    Runtime,
    Source,
    Step,
    Tracker,
    draw,
    open_source,
)
from pipeline.errors import CaptureError, ConfigError, ModelError, SourceError, StageError

IMAGE = np.zeros((64, 48, 3), np.uint8)
THREADS = "threads: expected a whole number from 1 to 1024, but got"
WHOLE = "expected a whole number of at least 1, but got"
FRACTION = "expected a number from 0 to 1, but got"
NO_SOURCE = "source: expected a camera number, a path or an address, but got"


class Given(Source[Frame]):
    """Gives what it was made with; raises what is an exception."""

    camera, live = "given", False

    def __init__(self, *items):
        self.items = list(items)

    def read(self):
        item = self.items.pop(0) if self.items else None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self):
        pass


class Forgetful(Step):
    """A step whose author forgot to return the result."""

    name = "forgetful"

    def process(self, frame, result):
        pass


def run(*items, steps=()):
    with Pipeline(Given(*items), steps=steps) as pipeline:
        return list(pipeline)


CONFIG = {
    "no-threads": (lambda: Detector(threads=0), f"{THREADS} 0"),
    "half-a-thread": (lambda: Detector(threads=1.5), f"{THREADS} 1.5"),
    "threads-as-text": (lambda: Classifier(threads="2"), f"{THREADS} '2'"),
    "runtime-threads": (lambda: Runtime(threads=-1), f"{THREADS} -1"),
    "top-of-a-half": (lambda: Classifier(top=1.5), f"top: {WHOLE} 1.5"),
    "top-as-text": (lambda: Classifier(top="5"), f"top: {WHOLE} '5'"),
    "no-top": (lambda: Classifier(top=0), f"top: {WHOLE} 0"),
    "score-as-text": (lambda: Detector(score_threshold="x"), f"score_threshold: {FRACTION} 'x'"),
    "score-nan": (lambda: Detector(score_threshold=np.nan), f"score_threshold: {FRACTION} nan"),
    "nms-none": (lambda: Detector(nms_threshold=None), f"nms_threshold: {FRACTION} None"),
    "detections": (lambda: Detector(max_detections=1.5), f"max_detections: {WHOLE} 1.5"),
    "runtime": (lambda: Detector(runtime="cpu"), "runtime: expected a Runtime, but got 'cpu'"),
    "manifest": (lambda: Detector(manifest=3), "manifest: expected a path or a ModelSpec"),
    "tracker-score": (lambda: Tracker(score_threshold=2), f"score_threshold: {FRACTION} 2"),
    "tracker-memory": (lambda: Tracker(memory_s=None), "memory_s: expected 0 to 3600 seconds"),
    "pipeline-source": (lambda: Pipeline("0"), "source: expected a Source, as open_source gives"),
    "pipeline-no-source": (lambda: Pipeline(None), "but got None"),
    "pipeline-step": (lambda: Pipeline(Given(), "yolo"), "steps: expected a Step such as"),
    "pipeline-steps": (lambda: Pipeline(Given(), steps=3), "steps: expected a list of steps"),
    "pipeline-threads": (lambda: Pipeline(Given(), threads="2"), f"{THREADS} '2'"),
    "pipeline-capacity": (lambda: Pipeline(Given(), capacity=0), f"capacity: {WHOLE} 0"),
    "pipeline-frames": (lambda: Pipeline(Given(), max_frames=1.5), f"max_frames: {WHOLE} 1.5"),
    "pipeline-time": (
        lambda: Pipeline(Given(), duration_s="5"),
        "duration_s: expected a number of seconds greater than 0, but got '5'",
    ),
    "source-width": (
        lambda: open_source("scene:", width="a"),
        "width: expected a number of pixels from 1 to 32768, but got 'a'",
    ),
    "source-camera": (lambda: open_source("scene:", camera=3), "camera: expected a text"),
    "source-time": (
        lambda: open_source("scene:", open_timeout_s="x"),
        "open_timeout_s: expected a number of seconds greater than 0, but got 'x'",
    ),
}


@pytest.mark.parametrize(("make", "message"), CONFIG.values(), ids=CONFIG)
def test_an_argument_out_of_range_or_of_another_type_is_named(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("text", [None, True, 1.5, b"0"], ids=repr)
def test_only_texts_paths_and_numbers_name_a_source(text):
    with pytest.raises(SourceError, match=re.escape(NO_SOURCE)):
        open_source(text)


def test_a_path_and_a_number_name_a_source(tmp_path):
    with pytest.raises(SourceError, match=r"missing\.mp4.*no such file"):
        open_source(Path(tmp_path / "missing.mp4"))
    with pytest.raises(SourceError, match="/dev/video99"):
        open_source(99)


@pytest.mark.parametrize("model", [None, 3, b"yolo"], ids=repr)
def test_only_names_and_paths_name_a_model(model):
    with pytest.raises(ModelError, match="model: expected a name or the path of a file"):
        Detector(model)


@pytest.mark.parametrize(
    "image", [None, [1], "a.jpg", IMAGE[..., 0]], ids=lambda x: type(x).__name__
)
def test_a_detector_names_the_image_that_it_expects(image):
    with pytest.raises(ValueError, match=r"image must be a non-empty \(H, W, 3\) uint8 array"):
        Detector(threads=1)(image)


CALLS = {
    "draw": (lambda: draw(None, None), "image must be a non-empty (H, W, 3) uint8 array"),
    "track": (lambda: Tracker()([], 0), "detections must be Detections, but got list []"),
    "stamp": (lambda: Tracker()(Detections.empty(()), None), "stamp_ns must be a whole number"),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_function_names_the_argument_that_it_expects(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


BOXES = {
    "none": (None, "boxes must be an (n, 4) float32 array, but got None"),
    "list": ([[0, 0, 1, 1]], "boxes must be an (n, 4) float32 array, but got list"),
    "texts": (np.array([["a"] * 4]), "but got shape (1, 4) of <U1"),
    "three-edges": (np.ones((2, 3), np.float32), "but got shape (2, 3) of float32"),
    "nan": (np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]]), "boxes must be finite, but box 1 is [ 0."),
    "infinite": (np.array([[0, 0, np.inf, 1]], np.float32), "boxes must be finite, but box 0 is"),
}


@pytest.mark.parametrize(("boxes", "message"), BOXES.values(), ids=BOXES)
def test_a_classifier_names_the_boxes_that_it_expects(boxes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Classifier(threads=1)(IMAGE, boxes)


def test_a_box_far_larger_than_the_image_takes_little_memory():
    classes = Classifier(threads=1)(IMAGE, np.array([[-1e30, 0, 1e30, 1]], np.float32))
    assert len(classes) == 1


@pytest.mark.parametrize("item", [[1], IMAGE, "frame", 0], ids=["list", "image", "text", "number"])
def test_a_source_that_gives_something_else_than_a_frame_is_named(item):
    message = "Given.read must return a Frame, a Result or None, but returned"
    with pytest.raises(StageError, match=re.escape(message)) as caught:
        run(item)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_step_that_returns_nothing_is_named():
    with pytest.raises(
        StageError, match=r"Forgetful\.process must return a Result, but returned N"
    ):
        run(Frame(IMAGE, 1, 0, "given"), steps=[Forgetful()])


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), CaptureError("gone")], ids=repr)
def test_what_a_camera_raised_is_the_cause(error):
    with pytest.raises(StageError) as caught:
        run(error)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_ends_a_program_passes_through(error):
    with pytest.raises(type(error)) as caught:
        run(Frame(IMAGE, 1, 0, "given"), error)
    assert caught.value is error
