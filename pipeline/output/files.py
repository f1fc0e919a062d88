"""Checks output files before a run starts, and writes the statistics of a run to one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import InputError
from pipeline.files.writing import write_atomically


def check_target(path: Path, subject: str, *, is_replaced: bool = False) -> Path:
    """Return `path` if a file can be written there; `subject` names the option in errors.

    With `is_replaced`, the file is first written under another name, so its folder must be
    writable. Raises `InputError` if the folder is missing or not writable, or if the path is a
    folder, or with `is_replaced` a pipe or a device.
    """
    folder = path.parent
    if is_replaced and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{subject} {path}: is a pipe or a device; expected the name of a file")
    if os.path.isdir(path):
        raise InputError(f"{subject} {path}: is a folder; expected the name of a file")
    if not os.path.isdir(folder):
        raise InputError(f"{subject} {path}: there is no folder {folder}; create it first")
    if (problem := _problem_of_name(path)) is not None:
        raise InputError(f"{subject} {path}: {problem}; choose another name")
    needed = [path] if os.path.exists(path) else []
    if is_replaced or not needed:
        needed.append(folder)
    if not all(os.access(place, os.W_OK) for place in needed):
        raise InputError(f"{subject} {path}: no permission to write there; choose another folder")
    return path


def _problem_of_name(path: Path) -> str | None:
    """Why no file can have this name, such as that it is too long."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    except ValueError:
        return "not the name of a file"
    return None


def write_stats(path: Path, stats: Mapping[str, Any]) -> None:
    """Write `stats` as JSON atomically: a reader never sees half a file.

    A pipe or device is written to directly. If the path is a link, the file behind it is replaced.
    Numbers that are not finite become null. Raises `OutputError`.
    """
    data = msgspec.json.format(msgspec.json.encode(stats), indent=2) + b"\n"
    write_atomically(path, data, f"--stats {path}", makes_folder=False)
