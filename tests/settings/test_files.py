"""Settings from files, the environment and options: precedence, ranges and error messages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.settings import SETTINGS, Settings, load_config, resolve


def settings_from(options, config=None, environment=None):
    return resolve(None, options, config, environment).settings


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_without_options_and_files_settings_have_their_defaults(file):
    assert settings_from({}) == settings_from({"score": None}, file("")) == Settings()


EVERY_SETTING = """
source: '0'
detector: mine.onnx
classifier: none
manifest: mine.toml
score: 0.5
nms: 0.6
nms_kind: darknet
top: 3
threads: 2
every_frame: false
max_frames: 9
duration: 1.5
open_timeout: 2
read_timeout: 3
retry: true
reconnect: false
isolate: true
width: 640
height: 480
fps: 15
fourcc: MJPG
show: true
record: a.mp4
jsonl: '-'
stats: a.json
camera: front
subscribe: ['zmq+ipc:///tmp/in']
publish: zmq+ipc:///tmp/out
payload: raw
quality: 70
max_frame_mb: 8
max_cameras: 4
await_subscriber: true
key: own.key
peer: [one.key, two.key]
server: one.key
insecure: true
group: crew
quiet: true
debug: true
"""


def test_every_setting_can_be_in_a_file_with_underscores_or_dashes(file):
    settings = load_config(file(EVERY_SETTING))
    assert set(settings) == set(SETTINGS)
    assert load_config(file(EVERY_SETTING.replace("_", "-"))) == settings
    assert Settings(**settings).nms_kind == "darknet"
    assert Settings(**settings).every_frame is False


def test_an_option_wins_over_the_file_and_the_file_over_the_default(file):
    settings = settings_from({"score": 0.9, "nms": None}, file("score: 0.1\nnms: 0.2\n"))
    assert (settings.score, settings.nms, settings.top) == (0.9, 0.2, Settings().top)


ENVIRONMENT = {
    "number": ("VISION_SCORE", "0.4", "score", 0.4),
    "count": ("VISION_MAX_FRAMES", "7", "max_frames", 7),
    "switch": ("VISION_SHOW", "Yes", "show", True),
    "off": ("VISION_RECONNECT", "0", "reconnect", False),
    "number-as-text": ("VISION_RECORD", "7", "record", "7"),
    "list": (
        "VISION_SUBSCRIBE",
        "zmq+ipc:///a zmq+ipc:///b",
        "subscribe",
        ("zmq+ipc:///a", "zmq+ipc:///b"),
    ),
    "empty": ("VISION_SCORE", "", "score", 0.25),
}


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"), ENVIRONMENT.values(), ids=ENVIRONMENT
)
def test_a_variable_sets_its_setting(variable, text, name, value):
    assert getattr(settings_from({}, environment={variable: text}), name) == value


def test_an_option_wins_over_the_environment_and_the_environment_over_the_file(file):
    path = file("score: 0.1\nnms: 0.1\ntop: 1\n")
    environment = {"VISION_SCORE": "0.2", "VISION_NMS": "0.2"}
    found = resolve("run", {"score": 0.3}, path, environment)
    assert (found.settings.score, found.settings.nms, found.settings.top) == (0.3, 0.2, 1)
    assert found.origins["score"] == "option --score"
    assert found.origins["nms"] == "environment VISION_NMS"
    assert found.origins["top"] == f"file {path}"
    assert found.origins["threads"] == "default"


@pytest.mark.parametrize("text", ["abc", "1.5", "nan"])
def test_an_error_in_the_environment_names_the_variable(text):
    message = "VISION_SCORE: expected a number from 0 to 1, but got"
    with pytest.raises(ConfigError, match=message):
        settings_from({}, environment={"VISION_SCORE": text})


UNKNOWN = {
    "typo": ("VISION_SCOR", "did you mean VISION_SCORE?"),
    "typo-of-the-file": ("VISION_CONFIGS", "did you mean VISION_CONFIG?"),
    "nothing-near": ("VISION_ZZZZZZZZZZZZZZZZZZZZ", "'vision config' lists the settings"),
}


@pytest.mark.parametrize(("variable", "hint"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_variable_that_is_not_a_setting_is_logged_with_the_nearest(variable, hint, caplog):
    assert settings_from({}, environment={variable: "3"}) == Settings()
    assert caplog.messages == [f"environment {variable}: not a setting; {hint}"]


def test_known_and_foreign_variables_are_not_logged(caplog):
    others = {"VISION_CONFIG": "", "VISION_MODELS": "/models", "TELEVISION_SCOR": "1", "HOME": "/"}
    settings_from({}, environment={one.variable: "" for one in SETTINGS.values()} | others)
    assert caplog.messages == []


def test_a_command_has_its_own_defaults_and_ignores_other_settings(file):
    path = file("publish: zmq+ipc:///a\nscore: 0.1\n")
    found = resolve("demo", {}, path, {"VISION_SUBSCRIBE": "zmq+ipc:///b"})
    assert (found.settings.max_frames, found.settings.score) == (300, 0.1)
    assert (found.settings.publish, found.settings.subscribe) == (None, ())
    assert found.unused == ("publish",)


def test_a_camera_number_in_a_file_needs_no_quotes(file):
    assert settings_from({}, file("source: 0")).source == 0


WRONG = {
    "typo": ("treads: 2", "'treads' is not a setting; did you mean threads?"),
    "dashed-typo": ("max-frame: 2", "did you mean max_frames?"),
    "latest": ("latest: true", "write 'every_frame: false'"),
    "nothing-near": ("xyzzy: 2", "known are source, camera"),
    "twice": ("nms-kind: iou\nnms_kind: iou", "nms_kind is set twice"),
    "same-key-twice": ("score: 0.4\nnms: 0.5\nscore: 0.6", "score is set twice; remove one"),
    "no-date": ("source: 2001-99-99", "not valid YAML: month must be in 1..12"),
    "text-for-number": ("score: high", "score: expected a number from 0 to 1, but got 'high'"),
    "bool-for-number": ("threads: true", "threads: expected a whole number"),
    "number-for-text": ("record: 7", "record: expected a text, but got 7"),
    "fraction-for-whole": ("threads: 1.5", "expected a whole number from 1 to 1024"),
    "list-for-number": ("score: [1, 2]", "expected a number from 0 to 1, but got [1, 2]"),
    "not-a-mapping": ("just words", "expected lines such as 'score: 0.4', but got 'just words'"),
    "code-in-yaml": ("score: !!python/object:os.system {}", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_errors_of_a_file_name_the_key_and_the_expectation(file, text, message):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"config {path}: ")
    assert message in str(caught.value)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_fraction_is_accepted_exactly_from_0_to_1(value):
    if not math.isnan(value) and 0 <= value <= 1:
        assert settings_from({"score": value}).score == value
    else:
        with pytest.raises(ConfigError, match="--score: expected a number from 0 to 1, but got"):
            settings_from({"score": value})


@given(st.sampled_from(["threads", "max_frames", "top", "width"]), st.integers(max_value=0))
def test_counts_begin_at_one(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: expected .* from|at least"):
        settings_from({name: value})
