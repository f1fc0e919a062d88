"""Pictures from a folder, a glob or a single file, in the order that people number them."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import FrameError, SourceError
from pipeline.images import IMAGE_SUFFIXES, is_image, read_image
from pipeline.source import Source, safe_name
from pipeline.types import Frame, Image


class Images(Source[Frame]):
    """Picture files, each one a frame; one that does not decode is a `FrameError` with its name."""

    live = False
    fps = None

    def __init__(self, paths: Sequence[Path], camera: str) -> None:
        self.camera = camera
        self.frames = len(paths)
        self._paths = list(paths)
        self._seq = 0
        self._closed = False
        self._first: Image | None = None

    def read(self) -> Frame | None:
        if self._closed or self._seq == len(self._paths):
            return None
        seq, self._seq = self._seq, self._seq + 1
        stamp_ns = time.time_ns()
        image, self._first = self._first, None
        if image is None:
            image = read_image(self._paths[seq])
        return Frame(image, stamp_ns, seq, self.camera)

    def close(self) -> None:
        self._closed = True

    def decode_first(self) -> None:
        """Decode the first picture now, to know at once whether it can be."""
        self._first = read_image(self._paths[0])


def open_folder(folder: Path, *, camera: str | None = None) -> Images:
    """The pictures that lie directly in a folder, sorted naturally (2 before 10).

    Raises `SourceError` where there are none.
    """
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error.strerror}") from error
    paths = _pictures(entries)
    if not paths:
        raise SourceError(f"{folder}: {_no_pictures('the folder holds', entries)}")
    return Images(paths, camera or safe_name(folder.resolve().name))


def open_glob(pattern: str, *, camera: str | None = None) -> Images:
    """The pictures whose paths match a shell pattern (`**` spans folders), sorted naturally.

    Raises `SourceError` where there are none.
    """
    entries = [Path(text) for text in glob.glob(pattern, recursive=True)]
    paths = _pictures(entries)
    if not paths:
        raise SourceError(f"{pattern}: {_no_pictures('the pattern matches', entries)}")
    return Images(paths, camera or safe_name(paths[0].resolve().parent.name))


def open_picture(path: Path, *, camera: str | None = None) -> Images:
    """A single picture as a source of one frame.

    Raises `SourceError` where it does not decode.
    """
    source = Images([path], camera or safe_name(path.stem))
    try:
        source.decode_first()
    except FrameError as error:
        raise SourceError(str(error)) from error
    return source


def _pictures(entries: Sequence[Path]) -> list[Path]:
    return sorted((path for path in entries if is_image(path) and path.is_file()), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Runs of digits compare as numbers: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _no_pictures(subject: str, entries: Sequence[Path]) -> str:
    suffixes = ", ".join(IMAGE_SUFFIXES)
    if not entries:
        return f"{subject} no files; expected images ({suffixes})"
    example = min(entries).name
    return (
        f"{subject} no images ({suffixes}) but {len(entries)} other entries such as "
        f"{example}; give a video by its own name"
    )
