"""Image folders: search, class sub-folders, and reading that skips a few damaged images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from pipeline.errors import FrameError, InputError
from pipeline.images import IMAGE_SUFFIXES, is_image, read_image
from pipeline.text.native import utf8
from pipeline.types import Image

MAX_DAMAGED = 0.1
"""The share of images that may be damaged; with more, the folder is probably a wrong one."""

logger = logging.getLogger(__name__)


def existing_folder(folder: str | Path) -> Path:
    """Return `folder` as a path. Raises `InputError` if there is no such folder."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: expected a folder of images, but there is no such folder")
    return folder


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name.

    Raises `InputError` if there is no such folder or no image in it.
    """
    folder = existing_folder(folder)
    return _some(sorted(path for path in folder.iterdir() if is_image(path)), folder)


def find_images(folder: str | Path) -> list[Path]:
    """Return the image files in `folder` and below, sorted; with a sub-folder `images`, in that.

    Raises `InputError` if there is no such folder or no image in it.
    """
    folder = existing_folder(folder)
    top = folder / "images" if os.path.isdir(folder / "images") else folder
    return _some(_images_below(top), top)


def is_visible_image(path: Path) -> bool:
    """Return whether a file has an image suffix and is not hidden."""
    return is_image(path) and not path.name.startswith(".")


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if is_visible_image(path))


def _some(found: list[Path], folder: Path) -> list[Path]:
    if not found:
        raise InputError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return found


def class_folders(folder: str | Path) -> dict[str, list[Path]]:
    """Return the images of each sub-folder of `folder` by its name, classes and images sorted.

    Sub-folders without images are skipped with a warning. Raises `InputError` if there is no such
    folder, or no sub-folder with images.
    """
    folder = existing_folder(folder)
    classes = {
        Path(utf8(child)).name: _images_below(child)
        for child in sorted(folder.iterdir())
        if os.path.isdir(child) and not child.name.startswith(".")
    }
    for name in [name for name, images in classes.items() if not images]:
        logger.warning("%s: skipped, because it has no images", folder / name)
        del classes[name]
    if not classes:
        raise InputError(f"{folder}: expected one sub-folder of images per class, but found none")
    return classes


def named_image(folder: Path, name: str) -> Path:
    """Return the path of the image in `folder` that labels call `name`; it need not exist.

    If `name` is a path of another machine, its last part counts.
    """
    path = folder / name
    if os.path.isfile(path):
        return path
    plain = folder / PureWindowsPath(name).name  # splits at both kinds of slashes
    return plain if os.path.isfile(plain) else path


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` of the paths, evenly spread over all of them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index * len(paths) // most] for index in range(most)]


class ReadableImages:
    """Iterates over paths and pixels; skips files that are missing or cannot be decoded.

    The first complete iteration logs a warning with their number. Raises `InputError` that names
    `subject` if they are more than a tenth of all; for missing files, before any work is done.
    """

    def __init__(self, subject: str | Path, paths: Sequence[Path]) -> None:
        self.subject = subject
        self.paths = paths
        self.damaged: list[Path] = []
        self._has_warned = False

    def __iter__(self) -> Iterator[tuple[Path, Image]]:
        self.damaged = []
        self.check_presence()
        for path in self.paths:
            try:
                image = read_image(path)
            except FrameError:
                self._skip(path)
                continue
            yield path, image
        if self.damaged and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: skipped %d of %d images that %scannot be decoded: %s%s",
                self.subject,
                len(self.damaged),
                len(self.paths),
                "" if all(map(os.path.isfile, self.damaged)) else "are missing or ",
                ", ".join(path.name for path in self.damaged[:3]),
                ", ..." if len(self.damaged) > 3 else "",
            )

    def check_presence(self) -> None:
        """Raise `InputError` if more than a tenth of the files are missing."""
        missing = [path for path in self.paths if not os.path.isfile(path)]
        if len(missing) > MAX_DAMAGED * len(self.paths):
            raise InputError(
                f"{self.subject}: {len(missing)} of its {len(self.paths)} images are missing, "
                f"for example {missing[0]}; expected at most {MAX_DAMAGED:.0%}"
            )

    def _skip(self, path: Path) -> None:
        self.damaged.append(path)
        if len(self.damaged) > MAX_DAMAGED * len(self.paths):
            raise InputError(
                f"{self.subject}: {len(self.damaged)} or more of {len(self.paths)} images cannot "
                f"be decoded, for example {path.name}; expected at most {MAX_DAMAGED:.0%}"
            )
