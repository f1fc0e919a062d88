"""Defaults and choices: constructors take theirs from the table of settings, which is light."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

from pipeline.capture.camera import Camera
from pipeline.cli.sources import source_options
from pipeline.errors import ConfigError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.inference.tracking.tracker import Tracker
from pipeline.publishing import Publishing
from pipeline.settings import SETTINGS, Settings
from pipeline.source import SourceOptions
from pipeline.sources import open_source
from pipeline.transport import Limits, Publisher, open_subscription
from pipeline.transport.wire.frames import encode_jpeg
from pipeline.zoo.evaluation.detection import open_to_evaluate

SENDING = ("payload", "quality")
PARAMETERS = {
    Detector: ("nms_kind", "threads", "manifest"),
    Classifier: ("top", "threads", "manifest"),
    Publisher: SENDING,
    Publishing: SENDING,
    encode_jpeg: ("quality",),
    Limits: ("max_frame_mb",),
    Camera: ("read_timeout_s",),
    open_subscription: ("open_timeout_s", "camera", "group"),
    open_to_evaluate: ("nms_kind", "threads"),
}
"""Parameters with the name of their setting; times in seconds end in `_s`."""
RENAMED = {
    "detector-model": (Detector, "model", "detector"),
    "detector-score": (Detector, "score_threshold", "score"),
    "detector-nms": (Detector, "nms_threshold", "nms"),
    "tracker-score": (Tracker, "score_threshold", "score"),
    "classifier-model": (Classifier, "model", "classifier"),
    "evaluation-nms": (open_to_evaluate, "nms_threshold", "nms"),
}


def default_of(made, parameter):
    return inspect.signature(made).parameters[parameter].default


@pytest.mark.parametrize(
    ("made", "names"), PARAMETERS.items(), ids=[one.__name__ for one in PARAMETERS]
)
def test_defaults_of_parameters_are_those_of_the_settings(made, names):
    for name in names:
        assert default_of(made, name) == SETTINGS[name.removesuffix("_s")].default, name


@pytest.mark.parametrize(("made", "parameter", "name"), RENAMED.values(), ids=RENAMED)
def test_defaults_of_renamed_parameters_are_those_of_the_settings(made, parameter, name):
    assert default_of(made, parameter) == SETTINGS[name].default


def test_evaluation_has_the_score_of_its_command():
    score = default_of(open_to_evaluate, "score_threshold")
    assert score == SETTINGS["score"].default_of("evaluate")


def test_defaults_of_source_options_are_those_of_the_settings():
    named = 0
    for field in dataclasses.fields(SourceOptions):
        assert default_of(open_source, field.name) == field.default
        setting = SETTINGS.get(field.name.removesuffix("_s"))
        if setting is not None:
            assert field.default == setting.default, field.name
            named += 1
    assert named >= 10


def test_the_detector_accepts_the_choices_of_the_setting():
    with pytest.raises(ConfigError, match=", ".join(SETTINGS["nms_kind"].choices)):
        Detector(nms_kind="none")


def test_settings_are_imported_without_heavy_packages():
    heavy = ("numpy", "cv2", "yaml", "onnxruntime", "zmq")
    code = f"import sys, pipeline.settings; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_source_options_come_from_the_settings_of_the_same_name():
    settings = Settings(open_timeout=2.0, read_timeout=3.0, width=64, camera="front", group="g")
    options = SourceOptions(**source_options(settings))
    times = (options.open_timeout_s, options.read_timeout_s)
    assert (*times, options.width, options.camera, options.group) == (2.0, 3.0, 64, "front", "g")
    assert options.limits == Limits(settings.max_frame_mb)
