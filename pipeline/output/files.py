"""Checks output files before a run starts."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError


def check_target(path: Path, subject: str, *, is_replaced: bool = False) -> Path:
    """Return `path` if a file can be written there; `subject` names the option in errors.

    With `is_replaced`, the file is first written under another name, so its folder must be
    writable. Raises `InputError` if the folder is missing or not writable, or if the path is a
    folder.
    """
    folder = path.parent
    if os.path.isdir(path):
        raise InputError(f"{subject} {path}: is a folder; expected the name of a file")
    if not os.path.isdir(folder):
        raise InputError(f"{subject} {path}: there is no folder {folder}; create it first")
    needed = [path] if os.path.exists(path) else []
    if is_replaced or not needed:
        needed.append(folder)
    if not all(os.access(place, os.W_OK) for place in needed):
        raise InputError(f"{subject} {path}: no permission to write there; choose another folder")
    return path
