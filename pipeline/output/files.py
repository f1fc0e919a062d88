"""Checks of the files that results go to, made before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError


def check_target(path: Path, subject: str, *, is_replaced: bool = False) -> Path:
    """`path` itself, where a file can be written there; `subject` names the option in errors.

    `is_replaced` is for what is written under another name first, which takes the folder's leave.

    Raises `InputError` where the folder is missing or may not be written to, or where the path is
    no ordinary file.
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
