"""Reader of images with true classes.

The images are in one folder per class, or listed in a text file with one image per line, followed
by its class after a comma, a tab or the last space. Paths are relative to the text file or to a
given folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.zoo.datasets.image_folders import class_folders
from pipeline.zoo.datasets.label_names import match_names

FORMS = "a folder with one sub-folder of images per class, or a text file of images and classes"

_LARGEST_LIST = 64 * 2**20


def read_classes(
    data: str | Path, labels: Sequence[str], images: str | Path | None = None
) -> dict[Path, int]:
    """Return the images of `data` and the class id of each.

    `images` is the folder of the images if they are not beside the text file.

    Raises `InputError` if `data` has neither format or has a class that the model does not know,
    and if `images` is not a folder or `data` itself holds the images.
    """
    data = Path(data)
    if images is not None and (data.is_dir() or not Path(images).is_dir()):
        found = f"the images are in {data}" if data.is_dir() else "there is no such folder"
        raise InputError(
            f"{images}: expected the folder of the images that a text file lists, but {found}"
        )
    if data.is_dir():
        by_name = class_folders(data)
        named = {path: name for name, paths in by_name.items() for path in paths}
    elif data.is_file() and data.suffix != ".json":
        named = _read_list(data, Path(images or data.parent))
    else:
        found = "it is neither" if data.exists() else "it does not exist"
        raise InputError(f"{data}: expected {FORMS}, but {found}")
    names = sorted(set(named.values()))
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return {path: classes[name] for path, name in named.items()}


def _read_list(data: Path, folder: Path) -> dict[Path, str]:
    """Read the images in `folder` and the class names of a text file."""
    if data.stat().st_size > _LARGEST_LIST:
        limit = f"at most {_LARGEST_LIST >> 20} MiB"
        raise InputError(f"{data}: expected a text file of images and classes of {limit}")
    try:
        lines = data.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{data}: expected {FORMS}, but it cannot be read: {error}") from error
    found: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in _split(line)]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"{data}: line {number}: expected an image and its class, but got '{line[:80]}'"
            )
        path, name = folder / parts[0], parts[1]
        if found.setdefault(path, name) != name:
            raise InputError(
                f"{data}: line {number}: {parts[0]} is '{name[:80]}', but was "
                f"'{found[path][:80]}' before"
            )
    if not found:
        raise InputError(f"{data}: expected lines of an image and its class, but it has none")
    return found


def _split(line: str) -> list[str]:
    for separator in (",", "\t"):
        if separator in line:
            return line.split(separator, 1)
    return re.split(r"\s+(?=\S+$)", line.strip())
