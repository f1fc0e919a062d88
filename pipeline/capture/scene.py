"""The demo scene: a virtual camera that pans along a wall of the sample photographs."""

from __future__ import annotations

import difflib
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import cv2
import numpy as np

from pipeline.capture.faults import Faulty, split_scene
from pipeline.capture.live import open_live
from pipeline.capture.readers import Request
from pipeline.errors import SourceError
from pipeline.images import is_image, read_image
from pipeline.paths import share_dirs
from pipeline.source import DEFAULT_FPS, Source, SourceKind, SourceOptions
from pipeline.types import Frame, Image

PREFIX = "scene:"
FORM = "scene:?size=1280x720&fps=30&seed=0&frames=300"

_FRAMES_PER_PHOTO = 100
_SLOWEST_PAN = 0.25  # of the mean speed, when a photograph is in the middle
_CLOSEST = 0.8  # of the wall's height in view when zoomed in
_WIDEST = 0.97
_MARGIN = 0.3  # of a photograph's height; a face that fills the view is hard to detect
_WALL_COLOR = (160, 160, 160)
_ZOOM_FRAMES = 161.8  # out of step with the pan, so that views hardly repeat


@dataclass(frozen=True)
class SceneSettings:
    """What the virtual camera delivers.

    `width` and `height` in pixels; `fps` in frames per second, 0 for as fast as it is read (then
    every frame counts); `frames` ends the scene, None never does. The pixels of a frame depend on
    the size, `seed` and the frame's number alone.
    """

    width: int = 1280
    height: int = 720
    fps: float = 30.0
    seed: int = 0
    frames: int | None = None


class Wall:
    """The photographs side by side at one height, joined into a ring, and a path along it."""

    def __init__(self, photos: list[Image], settings: SceneSettings) -> None:
        choose = random.Random(settings.seed)  # noqa: S311 - a path, not a secret
        photos = sorted(photos, key=lambda _: choose.random())
        self._pan_start = choose.random() * len(photos)
        self._zoom_start = choose.random()
        self._tilt_start = choose.random()
        self._size = (settings.width, settings.height)
        # Finer than the widest view, so that a step of one pixel on the wall is small in the view.
        height = min(max(5 * settings.height // 4, 540), 1080)
        mounted = [_mount(photo, height) for photo in photos]
        edges = np.cumsum([0, *(photo.shape[1] for photo in mounted)])
        self._ring = int(edges[-1])
        middles = (edges[:-1] + edges[1:]) / 2
        self._middles = [*middles.tolist(), float(middles[0] + self._ring)]
        self._view_height = min(height, self._ring * settings.height / settings.width)
        overlap = math.ceil(self._view_height * settings.width / settings.height) + 1
        wall = np.concatenate(mounted, axis=1)
        self._pixels = np.concatenate([wall, wall[:, :overlap]], axis=1)

    def view(self, number: int) -> tuple[int, int, int, int]:
        """What frame `number` shows: left, top, width and height in pixels of the wall."""
        turn = number / _ZOOM_FRAMES
        zoom = _between(_CLOSEST, _WIDEST, _wave(self._zoom_start + turn))
        height = round(self._view_height * zoom)
        width = round(height * self._size[0] / self._size[1])
        left = round(self._pan(number) - width / 2) % self._ring
        room = self._pixels.shape[0] - height
        return left, round(room * _wave(self._tilt_start + turn * math.pi)), width, height

    def render(self, number: int) -> Image:
        """The pixels of frame `number`, (height, width, 3) uint8 BGR."""
        left, top, width, height = self.view(number)
        part = self._pixels[top : top + height, left : left + width]
        # A crop and a resize: a fifth of the time of warpAffine.
        return cv2.resize(part, self._size, interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]

    def _pan(self, number: int) -> float:
        """The middle of the view on the wall: slow at photographs, faster between them."""
        photos = len(self._middles) - 1
        photo, part = divmod((self._pan_start + number / _FRAMES_PER_PHOTO) % photos, 1)
        part -= (1 - _SLOWEST_PAN) * math.sin(2 * math.pi * part) / (2 * math.pi)
        return _between(self._middles[int(photo)], self._middles[int(photo) + 1], part)


class Scene(Source[Frame]):
    """Renders the wall: in real time like a camera, or with `fps` 0 as a recording of 30 fps."""

    def __init__(
        self,
        photos: list[Image],
        settings: SceneSettings,
        camera: str,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.camera = camera
        self.live = settings.fps > 0
        self.frames = settings.frames
        self.fps = settings.fps or None
        self._wall = Wall(photos, settings)
        self._clock_ns = clock_ns
        self._opened_ns = time.time_ns()
        self._start_ns: int | None = None
        self._seq = 0
        self._closed = threading.Event()

    def read(self) -> Frame | None:
        due_ns = self._due_ns()
        if self._closed.is_set() or (self.frames is not None and self._seq >= self.frames):
            return None
        seq, self._seq = self._seq, self._seq + 1
        # Rendered before it is due, because a real camera's reader spends no time on it either.
        image = self._wall.render(seq)
        if due_ns is None:
            stamp_ns = self._opened_ns + round(seq * 1e9 / DEFAULT_FPS)
            return Frame(image, stamp_ns, seq, self.camera, recorded=True)
        early_ns = due_ns - self._clock_ns()
        if early_ns > 0 and self._closed.wait(early_ns / 1e9):
            return None
        late_ns = max(self._clock_ns() - due_ns, 0)
        return Frame(image, time.time_ns() - late_ns, seq, self.camera)

    def close(self) -> None:
        self._closed.set()

    def _due_ns(self) -> int | None:
        """When the next frame is due; a late reader gets the newest frame, as from a camera."""
        if not self.fps:
            return None
        now = self._clock_ns()
        if self._start_ns is None:
            self._start_ns = now
        period_ns = 1e9 / self.fps
        self._seq = max(self._seq, int((now - self._start_ns) / period_ns))
        return self._start_ns + round(self._seq * period_ns)


def open_scene(text: str, options: SourceOptions) -> Source[Frame]:
    """Open `scene:` or `scene:?size=1280x720&fps=30&seed=0&frames=300`, each part optional.

    The text takes precedence over the options. With `reconnect` or `isolate` it is read like a
    camera. Raises `SourceError` if the text says something else, or if no sample photographs are
    found.
    """
    request = Request(text, options)
    if options.reconnect or options.isolate:
        return open_live(connect, request, subject=text, reconnect=bool(options.reconnect))
    return connect(request)


def connect(request: Request) -> Source[Frame]:
    """Open the scene once, with the faults that its text asks for."""
    text, faults = split_scene(request.text)
    options = request.options
    given = {"width": options.width, "height": options.height, "fps": options.fps}
    values = {name: number for name, number in given.items() if number is not None}
    values.update(_parse(text))
    settings = SceneSettings(**values)  # type: ignore[arg-type]
    limits = {"width": 16, "height": 16, "fps": 0, "seed": 0, "frames": 1}
    for name, least in limits.items():
        number = getattr(settings, name)
        if number is not None and not least <= number <= (7680 if least == 16 else 1e9):
            raise SourceError(f"{text}: {name} is out of range: {number}; expected e.g. {FORM}")
    photos = [read_image(path) for path in sample_photos()]
    scene = Scene(photos, settings, options.camera or "scene")
    return Faulty(scene, faults) if faults else scene


def sample_photos() -> list[Path]:
    """The sample photographs that travel with the package.

    Raises `SourceError` if there are none.
    """
    folders = [folder / "samples" for folder in share_dirs()]
    for folder in folders:
        if folder.is_dir():
            paths = sorted(path for path in folder.iterdir() if is_image(path))
            if paths:
                return paths
    looked = ", ".join(map(str, folders)) or "no folder of models exists"
    raise SourceError(
        f"scene: no sample photographs found ({looked}); set VISION_MODELS to the folder of models"
    )


def _read_size(value: str) -> dict[str, float]:
    width, height = value.split("x")
    return {"width": int(width), "height": int(height)}


_READERS: dict[str, Callable[[str], dict[str, float]]] = {
    "size": _read_size,
    "fps": lambda value: {"fps": float(value)},
    "seed": lambda value: {"seed": int(value)},
    "frames": lambda value: {"frames": int(value)},
}


def _parse(text: str) -> dict[str, float]:
    values: dict[str, float] = {}
    query = text.removeprefix(PREFIX)
    if query and not query.startswith("?"):
        raise SourceError(f"{text}: expected '{PREFIX}' or e.g. '{FORM}'")
    for name, value in parse_qsl(query[1:], keep_blank_values=True):
        if name not in _READERS:
            near = difflib.get_close_matches(name, _READERS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_READERS)}"
            raise SourceError(f"{text}: unknown setting '{name}'; {hint}")
        try:
            values.update(_READERS[name](value))
        except ValueError:
            raise SourceError(f"{text}: {name} cannot be '{value}'; expected e.g. {FORM}") from None
    return values


def _mount(photo: Image, height: int) -> Image:
    """The photograph with a margin of wall, `height` pixels in all."""
    inside = round(height / (1 + 2 * _MARGIN))
    width = max(1, round(photo.shape[1] * inside / photo.shape[0]))
    scaled = cv2.resize(photo, (width, inside), interpolation=cv2.INTER_CUBIC)
    above, beside = (height - inside) // 2, round(_MARGIN * inside)
    below = height - inside - above
    return cv2.copyMakeBorder(  # type: ignore[no-any-return]
        scaled, above, below, beside, beside, cv2.BORDER_CONSTANT, value=_WALL_COLOR
    )


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _wave(turn: float) -> float:
    """From 0 to 1 and back in every turn."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * turn)


KIND = SourceKind(
    "scenes",
    "scene: (the demo scene)",
    lambda text: text.startswith(PREFIX),
    open_scene,
    ("width", "height", "fps", "read_timeout_s", "reconnect", "isolate"),
)
