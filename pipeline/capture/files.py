"""Video and image files, folders and globs of images, and their playback in real time."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.capture.faults import Faulty, split_path
from pipeline.capture.video import open_video
from pipeline.errors import FrameError, SourceError
from pipeline.images import IMAGE_SUFFIXES, OTHER_IMAGES, is_image, read_image
from pipeline.source import DEFAULT_FPS, Source, SourceKind, SourceOptions, SourceWrapper, safe_name
from pipeline.types import Frame, Image, Media

log = logging.getLogger(__name__)


class ImageFiles(Source[Frame]):
    """Image files, each one a frame; one that does not decode is a `FrameError` with its name.

    Frame i has the stamp of the moment of opening plus i / `fps`.
    """

    live = False

    def __init__(self, paths: Sequence[Path], camera: str, fps: float | None = None) -> None:
        self.camera = camera
        self.frames = len(paths)
        self.fps = fps
        self._paths = list(paths)
        self._start_ns = time.time_ns()
        self._seq = 0
        self._closed = False
        self._first: Image | None = None

    def read(self) -> Frame | None:
        if self._closed or self._seq == len(self._paths):
            return None
        seq, self._seq = self._seq, self._seq + 1
        read_ns = time.time_ns()
        image, self._first = self._first, None
        if image is None:
            image = read_image(self._paths[seq])
        stamp_ns = self._start_ns + round(seq * 1e9 / (self.fps or DEFAULT_FPS))
        return Frame(
            image,
            stamp_ns,
            seq,
            self.camera,
            read_ns=read_ns,
            recorded=True,
            media=Media(str(self._paths[seq])),
        )

    def close(self) -> None:
        self._closed = True

    def decode_first(self) -> None:
        """Decode the first image now, to find out whether it can be decoded."""
        self._first = read_image(self._paths[0])


def is_path(text: str) -> bool:
    """Whether `text` names an existing file or folder, or is a glob; faults may follow a `?`.

    Raises `SourceError` if the faults are invalid.
    """
    if not text or "\0" in text or "://" in text:
        return False
    path, _ = split_path(text)
    return os.path.exists(os.path.expanduser(path)) or glob.has_magic(path)


def open_files(text: str, options: SourceOptions) -> Source[Frame]:
    """Open a video, an image, a folder of images or a glob of images.

    Raises `SourceError` if there is nothing to read.
    """
    name, faults = split_path(text)
    path, camera, fps = Path(os.path.expanduser(name)), options.camera, options.fps
    source: Source[Frame]
    if os.path.isdir(path):
        source = open_folder(path, camera=camera, fps=fps)
    elif not os.path.exists(path):
        source = open_glob(str(path), camera=camera, fps=fps)
    elif is_image(path):
        source = open_image(path, camera=camera, fps=fps)
    elif path.suffix.lower() in OTHER_IMAGES:
        raise SourceError(f"{path}: {path.suffix} images are not read; convert it to JPEG or PNG")
    else:
        source = open_video(path, camera=camera, fps=fps)
    return Faulty(source, faults) if faults else source


def open_folder(folder: Path, *, camera: str | None = None, fps: float | None = None) -> ImageFiles:
    """The images that lie directly in a folder, sorted naturally (2 before 10).

    Raises `SourceError` if there are none.
    """
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error.strerror}") from error
    paths = _images(entries, str(folder))
    if not paths:
        raise SourceError(f"{folder}: {_no_images('the folder holds', entries)}")
    return ImageFiles(paths, camera or safe_name(os.path.basename(os.path.realpath(folder))), fps)


def open_glob(pattern: str, *, camera: str | None = None, fps: float | None = None) -> ImageFiles:
    """The images whose paths match a shell pattern (`**` spans folders), sorted naturally.

    Raises `SourceError` if there are none.
    """
    entries = [Path(text) for text in glob.glob(pattern, recursive=True)]
    paths = _images(entries, pattern)
    if not paths:
        raise SourceError(f"{pattern}: {_no_images('the pattern matches', entries)}")
    return ImageFiles(paths, camera or safe_name(Path(os.path.realpath(paths[0])).parent.name), fps)


def open_image(path: Path, *, camera: str | None = None, fps: float | None = None) -> ImageFiles:
    """A single image as a source of one frame.

    Raises `SourceError` if it does not decode.
    """
    source = ImageFiles([path], camera or safe_name(path.stem), fps)
    try:
        source.decode_first()
    except FrameError as error:
        raise SourceError(str(error)) from error
    return source


def why_missing(text: str) -> str:
    """What is missing of a path, the folder or the file in it, with the nearest existing name."""
    path = Path(os.path.expanduser(text))
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):  # ValueError: a null character
        return f"no such file, and no folder {path.parent}"
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"no such file; did you mean {path.parent / near[0]}?" if near else "no such file"


def _images(entries: Sequence[Path], subject: str) -> list[Path]:
    others = Counter(p.suffix.lower() for p in entries if p.suffix.lower() in OTHER_IMAGES)
    if others:
        counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        log.warning("%s: passed over %s; convert them to JPEG or PNG", subject, counted)
    return sorted(
        (path for path in entries if is_image(path) and os.path.isfile(path)), key=_natural
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Runs of digits compare as numbers: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _no_images(subject: str, entries: Sequence[Path]) -> str:
    suffixes = ", ".join(IMAGE_SUFFIXES)
    if not entries:
        return f"{subject} no files; expected images ({suffixes})"
    example = min(entries).name
    return (
        f"{subject} no images ({suffixes}) but {len(entries)} other entries such as "
        f"{example}; give a video by its own name"
    )


KIND = SourceKind(
    "files",
    "a video or image file, a folder or glob of images",
    is_path,
    open_files,
    ("fps",),
)


class Paced(SourceWrapper[Frame]):
    """Plays a recording in real time: each frame is delivered when due, as from a camera.

    The time between two frames is the difference of their stamps; a frame that is read late does
    not hurry the following ones. `read_ns` is the moment at which a frame is due. Frames that are
    not of a recording pass at once.
    """

    def __init__(self, source: Source[Frame]) -> None:
        super().__init__(source)
        self._closed = threading.Event()
        self._due_s = 0.0
        self._last_ns: int | None = None

    def read(self) -> Frame | None:
        frame = self._source.read()
        if frame is None or not frame.recorded:
            return frame
        now_s = time.monotonic()
        if self._last_ns is not None:
            self._due_s += max(frame.stamp_ns - self._last_ns, 0) / 1e9
        self._last_ns = frame.stamp_ns
        self._due_s = max(self._due_s, now_s)
        if self._closed.wait(self._due_s - now_s):
            return None
        return dataclasses.replace(frame, read_ns=time.time_ns())

    def close(self) -> None:
        self._closed.set()
        super().close()
