"""The interface of sources, kinds of sources and their options, and the names of cameras."""

from __future__ import annotations

import abc
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from pipeline.errors import ConfigError
from pipeline.settings import SETTINGS, Settings
from pipeline.types import SAME_CLOCK, ClockOffset, Frame, Result

_CAMERA_NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)

Item = TypeVar("Item", Frame, Result)
S = TypeVar("S", bound="Source[Any]")

DEFAULT_FPS = 30.0
"""The rate of images and of recordings that state none, in frames per second."""


class Source(abc.ABC, Generic[Item]):
    """Gives frames, or results that another process made, one after the other.

    `Source[Frame]` is a source of frames, `Source[Result]` one of results.

    - `camera`: the name that the frames carry (ROS `frame_id`, part of a topic)
    - `live`: the source continues whether it is read or not, so only its newest frame is of use;
      if False, every frame counts
    - `frames`: the number of frames (of a damaged file fewer), None if unknown
    - `fps`: the nominal rate in frames per second, None if unknown

    `read` is called by one thread. `clock_of`, `done` and `counts` have defaults that fit a source
    on this machine.
    """

    camera: str
    live: bool
    frames: int | None = None
    fps: float | None = None

    @abc.abstractmethod
    def read(self) -> Item | None:
        """Wait for the next frame or result; None at the end of the source or once it is closed.

        `seq` counts from 0, and a lost frame uses up its number. Raises `FrameError` if one frame
        is lost and reading can continue, `CaptureError` if the source is broken.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release the device. Idempotent and safe to call from another thread during `read`."""

    def clock_of(self, camera: str) -> ClockOffset | None:
        """The clock that stamps a camera's frames, against this machine's; None if not known."""
        return SAME_CLOCK

    def done(self) -> None:
        """Called by the reader once it has processed or dropped an item it read."""

    def counts(self) -> Mapping[str, Any]:
        """The source's own figures (reconnects, messages received...), for the statistics."""
        return {}

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


class SourceWrapper(Source[Item]):
    """Base of sources that change what another source gives; delegates everything but `read`."""

    def __init__(self, source: Source[Item]) -> None:
        self.camera, self.live = source.camera, source.live
        self.frames, self.fps = source.frames, source.fps
        self._source: Source[Item] = source

    def close(self) -> None:
        self._source.close()

    def clock_of(self, camera: str) -> ClockOffset | None:
        return self._source.clock_of(camera)

    def done(self) -> None:
        self._source.done()

    def counts(self) -> Mapping[str, Any]:
        return self._source.counts()


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to open a source; the fields are the keywords of `pipeline.open_source`.

    A field has the name of its setting; a time in seconds ends in `_s`.

    - `width`, `height` (pixels), `fps`, `fourcc`: requested from cameras; all but `fourcc` from the
      scene; `fps` also replaces the rate of files and is the rate of images
    - `open_timeout_s`, `read_timeout_s`: cameras and streams must deliver their first frame and
      later ones within these times, subscriptions the first
    - `camera`: replaces the source's own name for its frames
    - `reconnect`: reopen a live source when it breaks, until it is closed; False raises its
      `CaptureError`; by default cameras and streams reconnect and the scene does not
    - `isolate`: read cameras, streams and the scene in a child process from the start, so that a
      crash of the driver or decoder does no harm; by default only after a hang
    - `real_time`: deliver the frames of recordings at their own rate, as a camera would
    - `group`, `in_flight`, `in_turn`, `limits`, `security`: of subscriptions, see
      `pipeline.transport.open_subscription`

    Raises `ConfigError` if an option is of another type than its setting or out of its range.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None
    open_timeout_s: float = Settings.open_timeout
    read_timeout_s: float = Settings.read_timeout
    camera: str | None = None
    reconnect: bool | None = None
    isolate: bool = False
    real_time: bool = False
    group: str | None = None
    in_flight: int | None = None
    in_turn: bool = False
    limits: Any = None
    security: Any = None

    def __post_init__(self) -> None:
        for option in fields(self):
            setting = SETTINGS.get(option.name.removesuffix("_s"))
            value = getattr(self, option.name)
            if setting is not None and value != option.default:
                object.__setattr__(self, option.name, setting.check(value, option.name))


@dataclass(frozen=True)
class SourceKind:
    """A kind of source, such as cameras: how texts name one, and how it is opened.

    - `name`: the kind in the plural, for messages
    - `forms`: the texts that name such sources, for help and errors
    - `accepts`: whether a text names a source of this kind
    - `open`: opens the source; raises `SourceError` or `ConfigError`
    - `uses`: the options with an effect on this kind; all kinds use `camera` and `real_time`
    """

    name: str
    forms: str
    accepts: Callable[[str], bool]
    open: Callable[[str, SourceOptions], Source[Frame]]
    uses: tuple[str, ...]


def safe_name(text: str) -> str:
    """The name nearest to `text` that ROS and topics accept: `[A-Za-z_][A-Za-z0-9_]*`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain, flags=re.ASCII).strip("_")
    if not name:
        return "camera"
    return f"camera_{name}" if name[0].isdigit() else name


def check_camera_name(name: str) -> str:
    """Return `name` if it can be a ROS `frame_id` and a part of a topic.

    Raises `ConfigError` that suggests a valid name.
    """
    if not _CAMERA_NAME.fullmatch(name):
        raise ConfigError(
            f"camera name '{name}': letters, digits and _ are allowed, parts are separated by / "
            f"and none begins with a digit; try '{safe_name(name)}'"
        )
    return name
