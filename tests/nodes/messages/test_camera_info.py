"""Calibration files to `CameraInfo` messages."""

from __future__ import annotations

import pytest
import yaml

from nodes.messages.camera_info import read_camera_info, write_camera_info
from pipeline.errors import ConfigError

CALIBRATION = {
    "image_width": 320,
    "image_height": 240,
    "camera_name": "front",
    "distortion_model": "plumb_bob",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [300, 0, 160, 0, 301, 120, 0, 0, 1]},
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, -0.2, 0.001, 0.002, 0]},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    "projection_matrix": {
        "rows": 3,
        "cols": 4,
        "data": [300, 0, 160, 0, 0, 301, 120, 0, 0, 0, 1, 0],
    },
}


def test_every_entry_becomes_a_field(tmp_path):
    file = tmp_path / "front.yaml"
    file.write_text(yaml.safe_dump(CALIBRATION))
    info = read_camera_info(file.as_uri())
    assert (info.width, info.height, info.distortion_model) == (320, 240, "plumb_bob")
    assert list(info.k) == CALIBRATION["camera_matrix"]["data"]
    assert list(info.d) == CALIBRATION["distortion_coefficients"]["data"]
    assert list(info.r) == CALIBRATION["rectification_matrix"]["data"]
    assert list(info.p) == CALIBRATION["projection_matrix"]["data"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_width": True},
        {"distortion_model": ["plumb_bob"]},
        {"camera_matrix": {"data": "123456789"}},
        {"projection_matrix": {"data": [1.0] * 11}},
        {"distortion_coefficients": {"data": [float("nan")] * 5}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_error_names_the_wrong_entry(tmp_path, wrong):
    file = tmp_path / "front.yaml"
    file.write_text(yaml.safe_dump({**CALIBRATION, **wrong}))
    with pytest.raises(ConfigError, match=f"front.yaml: {next(iter(wrong))} must"):
        read_camera_info(str(file))


def test_calibration_in_an_unknown_home_folder_is_an_error():
    with pytest.raises(ConfigError, match="cannot be read"):
        read_camera_info("~nobody-has-this-name/front.yaml")


def test_written_calibration_is_read_again(tmp_path):
    file = tmp_path / "front.yaml"
    file.write_text(yaml.safe_dump(CALIBRATION))
    info = read_camera_info(str(file))
    copy = tmp_path / "folder" / "copy.yaml"
    write_camera_info(copy, info)
    assert read_camera_info(str(copy)) == info
