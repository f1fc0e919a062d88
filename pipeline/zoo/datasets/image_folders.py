"""Folders of pictures: finding them, reading them, and reading past the few that are damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.opencv_logging import quiet_opencv
from pipeline.types import Image

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MAX_DAMAGED = 0.1
"""The share of pictures that may be damaged; more of them means that the folder is a wrong one."""

logger = logging.getLogger(__name__)


def existing_folder(folder: str | Path) -> Path:
    """`folder`, where there is such a folder; else raises `InputError`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, but there is no such folder")
    return folder


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files that lie directly in `folder`, sorted by name.

    Raises `InputError` where there is no such folder or no picture in it.
    """
    folder = existing_folder(folder)
    return _some(sorted(p for p in folder.iterdir() if _has_suffix(p)), folder)


def find_pictures(folder: str | Path) -> list[Path]:
    """The picture files in `folder` and below, sorted; of a YOLO-format one those in `images`.

    Raises `InputError` where there is no such folder or no picture in it.
    """
    folder = existing_folder(folder)
    top = folder / "images" if (folder / "images").is_dir() else folder
    return _some(sorted(path for path in top.rglob("*") if is_picture(path)), top)


def is_picture(path: Path) -> bool:
    """Whether a file is named like a picture; hidden ones are none."""
    return _has_suffix(path) and not path.name.startswith(".")


def read_picture(path: Path) -> Image:
    """One picture as (H, W, 3) uint8 BGR. Raises `InputError` where it cannot be decoded."""
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # more pixels than OpenCV will make room for
        image = None
    if image is None:
        raise InputError(f"{path}: expected a picture, but it cannot be decoded")
    return np.asarray(image, np.uint8)


def _has_suffix(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _some(found: list[Path], folder: Path) -> list[Path]:
    if not found:
        raise InputError(f"{folder}: expected pictures ({', '.join(PICTURE_SUFFIXES)}), found none")
    return found


def class_folders(folder: str | Path) -> dict[str, list[Path]]:
    """The pictures of each sub-folder of `folder` by its name, classes and pictures sorted.

    Sub-folders without pictures are left out, with a warning. Raises `InputError` where there is
    no such folder, or no sub-folder with pictures.
    """
    folder = existing_folder(folder)
    classes = {
        child.name: sorted(path for path in child.rglob("*") if is_picture(path))
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    for name in [name for name, pictures in classes.items() if not pictures]:
        logger.warning("%s: has no pictures and is left out", folder / name)
        del classes[name]
    if not classes:
        raise InputError(
            f"{folder}: expected a sub-folder of pictures for each class, but found none"
        )
    return classes


def named_picture(folder: Path, name: str) -> Path:
    """The picture in `folder` that labels call `name`; it need not be there.

    Labels that were made elsewhere may name it by a path of that machine: then the last part of
    the path counts.
    """
    path = folder / name
    if path.is_file():
        return path
    plain = folder / PureWindowsPath(name).name  # which knows both kinds of slashes
    return plain if plain.is_file() else path


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread over all of them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index * len(paths) // most] for index in range(most)]


class UsablePictures:
    """Iterates over paths and pixels, and skips files that are missing or do not decode.

    A warning tells how many at the first end. Raises `InputError` that names `subject` as soon as
    they are more than a tenth of all; of missing ones, before any work is done.
    """

    def __init__(self, subject: str | Path, paths: Sequence[Path]) -> None:
        self.subject = subject
        self.paths = paths
        self.damaged: list[Path] = []
        self._has_told = False

    def __iter__(self) -> Iterator[tuple[Path, Image]]:
        self.damaged = []
        self.check_presence()
        for path in self.paths:
            try:
                with quiet_opencv():
                    image = read_picture(path)
            except InputError:
                self._skip(path)
                continue
            yield path, image
        if self.damaged and not self._has_told:
            self._has_told = True
            logger.warning(
                "%s: skipped %d of %d pictures that %sdo not decode: %s%s",
                self.subject,
                len(self.damaged),
                len(self.paths),
                "" if all(path.is_file() for path in self.damaged) else "are missing or ",
                ", ".join(path.name for path in self.damaged[:3]),
                ", ..." if len(self.damaged) > 3 else "",
            )

    def check_presence(self) -> None:
        """Raise `InputError` where more than a tenth of the files are not there."""
        missing = [path for path in self.paths if not path.is_file()]
        if len(missing) > MAX_DAMAGED * len(self.paths):
            raise InputError(
                f"{self.subject}: {len(missing)} of its {len(self.paths)} pictures are not there, "
                f"{missing[0]} for one; expected at most {MAX_DAMAGED:.0%}"
            )

    def _skip(self, path: Path) -> None:
        self.damaged.append(path)
        if len(self.damaged) > MAX_DAMAGED * len(self.paths):
            raise InputError(
                f"{self.subject}: {len(self.damaged)} or more of {len(self.paths)} pictures do not "
                f"decode, {path.name} for one; expected at most {MAX_DAMAGED:.0%}"
            )
