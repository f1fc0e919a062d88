"""Reads the calibration files of ROS's camera calibrators into `CameraInfo` messages.

The keys are those of camera_calibration_parsers. sensor_msgs/CameraInfo explains the fields.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from sensor_msgs.msg import CameraInfo

from pipeline.errors import ConfigError, OutputError
from pipeline.files.writing import write_atomically
from pipeline.settings.setting import shown
from pipeline.text.files import read_text
from pipeline.text.formats import parse_yaml

_MATRICES = {
    "camera_matrix": ("k", 9),
    "rectification_matrix": ("r", 9),
    "projection_matrix": ("p", 12),
}
_MIN_COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}


def read_camera_info(url: str) -> CameraInfo:
    """The message with the content of a calibration file, without a header.

    `url` is a path, `file://PATH` or `package://PACKAGE/PATH`. Raises `ConfigError` if the file
    does not exist or is not a calibration.
    """
    path = local_path(url)
    subject = f"camera_info_url: {path}"
    text = read_text(path, kind=ConfigError, subject=subject)
    content = parse_yaml(text, subject, ConfigError).content
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"camera_info_url: {path} is not a calibration: expected image_width, ..."
        )
    message = CameraInfo(
        width=_size(content, "image_width", path),
        height=_size(content, "image_height", path),
        distortion_model=_model(content, path),
    )
    message.d = _distortion(content, message.distortion_model, path)
    for key, (field, count) in _MATRICES.items():
        setattr(message, field, _numbers(content, key, path, count))
    return message


def write_camera_info(path: Path, info: CameraInfo) -> None:
    """Write a calibration so that `read_camera_info` reads it.

    Raises `ConfigError` if the file cannot be written.
    """
    content: dict[str, Any] = {
        "image_width": int(info.width),
        "image_height": int(info.height),
        "camera_name": info.header.frame_id or path.stem,
        "distortion_model": info.distortion_model,
        "distortion_coefficients": _matrix(info.d, 1),
    }
    for key, (field, _) in _MATRICES.items():
        content[key] = _matrix(getattr(info, field), 3)
    try:
        write_atomically(path, yaml.safe_dump(content, sort_keys=False).encode())
    except OutputError as error:
        raise ConfigError(f"camera_info_url: {error}") from error


def _matrix(values: Any, rows: int) -> dict[str, Any]:
    data = [float(value) for value in values]
    return {"rows": rows, "cols": len(data) // rows, "data": data}


def local_path(url: str) -> Path:
    """The path that a URL of a calibration names. Raises `ConfigError` for an unknown package."""
    parts = urlsplit(url)
    if parts.scheme == "package":
        try:
            share = get_package_share_directory(parts.netloc)
        except (PackageNotFoundError, ValueError, OSError) as error:  # also without a workspace
            raise ConfigError(f"camera_info_url: {url}: no package '{parts.netloc}'") from error
        return Path(share) / unquote(parts.path).lstrip("/")
    return Path(os.path.expanduser(unquote(parts.path) if parts.scheme == "file" else url))


def _size(content: Mapping[Any, Any], key: str, path: Path) -> int:
    value = content.get(key)
    if type(value) is not int or not 0 < value < 2**16:  # a bool is an int, too
        raise ConfigError(f"camera_info_url: {path}: {key} must be pixels, but got {shown(value)}")
    return value


def _model(content: Mapping[Any, Any], path: Path) -> str:
    model = content.get("distortion_model", "plumb_bob")
    if not isinstance(model, str) or model not in _MIN_COEFFICIENTS:
        known = ", ".join(_MIN_COEFFICIENTS)
        raise ConfigError(
            f"camera_info_url: {path}: distortion_model must be one of {known}, "
            f"but got {shown(model)}"
        )
    return model


def _distortion(content: Mapping[Any, Any], model: str, path: Path) -> list[float]:
    values = _numbers(content, "distortion_coefficients", path)
    if len(values) < _MIN_COEFFICIENTS[model]:
        raise ConfigError(
            f"camera_info_url: {path}: distortion_coefficients of {model} must be at least "
            f"{_MIN_COEFFICIENTS[model]} numbers, but got {len(values)}"
        )
    return values


def _numbers(
    content: Mapping[Any, Any], key: str, path: Path, count: int | None = None
) -> list[float]:
    matrix = content.get(key)
    data = matrix.get("data") if isinstance(matrix, Mapping) else None
    expected = "numbers" if count is None else f"{count} numbers"
    try:
        values = [float(value) for value in data] if isinstance(data, list) else [math.nan]
    except (TypeError, ValueError, OverflowError):
        values = [math.nan]
    if not all(map(math.isfinite, values)) or len(values) != (count or len(values)):
        raise ConfigError(f"camera_info_url: {path}: {key} must have data of {expected}")
    return values
