"""Texts that name sources, missing cameras, and names."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture import camera as cameras
from pipeline.capture import files, scene, stream
from pipeline.capture.camera import MAX_STAMP_AGE_NS, driver_stamp_ns
from pipeline.errors import ConfigError, SourceError
from pipeline.paths import share_dirs
from pipeline.source import SourceKind, SourceOptions, check_camera_name, safe_name
from pipeline.sources import FORMS, KINDS, kind_of, open_source
from pipeline.transport.zmq.frames import KIND as SUBSCRIPTIONS


def no_such_camera() -> str:
    number = next(n for n in range(1000) if not Path(f"/dev/video{n}").exists())
    return str(number)


def test_error_for_a_missing_camera_lists_the_others() -> None:
    number = no_such_camera()
    with pytest.raises(SourceError, match=rf"/dev/video{number}: No such file.*cameras here: "):
        open_source(number)


def test_device_that_is_no_camera() -> None:
    with pytest.raises(SourceError, match="/dev/null: not a camera device"):
        open_source("/dev/null")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fourcc": "MJPEG"}, "fourcc: expected four characters such as MJPG, but got 'MJPEG'"),
        ({"width": 0}, "width: expected a number of pixels from 1 to 32768, but got 0"),
        ({"fps": -5.0}, "fps: expected frames per second, from above 0 to 1000, but got -5.0"),
    ],
    ids=["fourcc", "width", "fps"],
)
def test_invalid_camera_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(no_such_camera(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", cameras.KIND),
        ("/dev/video0", cameras.KIND),
        ("scene:?size=64x48", scene.KIND),
        ("RTSP://host/x?a=*", stream.KIND),
        ("https://host/x.mjpg", stream.KIND),
        ("zmq+tcp://host:5555/front", SUBSCRIPTIONS),
        (__file__, files.KIND),
        ("no folder/*.png", files.KIND),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_text_names_one_kind_of_source(text: str, kind: SourceKind) -> None:
    assert kind_of(text) is kind


def test_every_kind_uses_options_that_exist() -> None:
    known = {field.name for field in dataclasses.fields(SourceOptions)}
    for kind in KINDS:
        assert set(kind.uses) <= known
    parameters = inspect.signature(open_source).parameters
    assert set(parameters) == {"text", *known}


def test_options_without_effect_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tofile(tmp_path / "a.png")
    with open_source(str(tmp_path), width=640, fps=5.0, isolate=True):
        assert f"{tmp_path}: without effect on files: width, isolate" in caplog.text
    caplog.clear()
    with open_source("scene:?frames=1", width=640, height=480, fps=5.0, reconnect=False):
        assert caplog.text == ""


@pytest.mark.parametrize("text", ["", "ftp://host/x", "v4l2://0", "a\0b"])
def test_unknown_source_lists_the_forms(text: str) -> None:
    with pytest.raises(SourceError) as error:
        open_source(text)
    assert FORMS in str(error.value)


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "drive-north.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"drive_north\.mp4.* did you mean .*drive-north\.mp4\?"):
        open_source(str(tmp_path / "drive_north.mp4"))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no folder .*nowhere"):
        open_source(str(tmp_path / "nowhere" / "x.mp4"))


def test_name_too_long_for_the_system_is_a_missing_file() -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source("x" * 5000)


@given(st.text(max_size=40))
def test_any_invalid_text_gives_a_source_error(text: str) -> None:
    with pytest.raises(SourceError, match="no such"):
        open_source("no such folder/" + text.replace("..", ""))


def test_camera_name_can_be_chosen_and_is_checked(tmp_path: Path) -> None:
    with open_source("scene:?fps=0", camera="robot_1/front") as source:
        assert source.camera == "robot_1/front"
    with pytest.raises(ConfigError, match="try 'front_door'"):
        open_source("scene:", camera="front door")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("video0", "video0"),
        ("2024 drive", "camera_2024_drive"),
        ("Ünter", "Unter"),
        ("写真", "camera"),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.text())
def test_safe_names_are_names(text: str) -> None:
    assert check_camera_name(safe_name(text))


def test_stamp_of_the_driver_is_carried_to_the_epoch() -> None:
    wall_ns, monotonic_ns = 1_700_000_000_000_000_000, 5_000_000_000_000
    taken_ms = (monotonic_ns - 12_000_000) / 1e6
    assert driver_stamp_ns(taken_ms, wall_ns, monotonic_ns) == wall_ns - 12_000_000


@pytest.mark.parametrize(
    "position_ms",
    [0.0, float("nan"), float("inf"), -1.0, 5_000_000.1, (5e12 - MAX_STAMP_AGE_NS - 1e6) / 1e6],
    ids=["none", "nan", "inf", "negative", "future", "old"],
)
def test_implausible_stamp_of_a_driver_is_replaced_by_the_time_of_the_grab(
    position_ms: float,
) -> None:
    wall_ns = 1_700_000_000_000_000_000
    assert driver_stamp_ns(position_ms, wall_ns, 5_000_000_000_000) == wall_ns


def test_folders_of_models_in_the_order_of_the_users_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, ament = tmp_path / "mine", tmp_path / "ws" / "share" / "vision" / "models"
    mine.mkdir()
    ament.mkdir(parents=True)
    monkeypatch.setenv("VISION_MODELS", f"{mine}:{tmp_path / 'missing'}::{mine}")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "ws"))
    found = share_dirs()
    assert found[0] == mine
    assert found.count(mine) == 1
    assert found.index(ament) > found.index(mine)
    assert tmp_path / "missing" not in found
