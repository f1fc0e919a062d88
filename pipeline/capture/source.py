"""What every source of frames can do, and the names that sources get."""

from __future__ import annotations

import abc
import re
import unicodedata
from types import TracebackType
from typing import TypeVar

from pipeline.errors import ConfigError
from pipeline.types import Frame

_CAMERA_NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)

S = TypeVar("S", bound="Source")


class Source(abc.ABC):
    """Frames, one after the other, on the caller's own thread.

    - `camera`: the name that the frames carry (ROS `frame_id`, part of a topic)
    - `live`: the source runs on whether it is read or not, so only its newest frame is of use;
      where it is False every frame counts
    - `frames`: how many frames there will be (of a damaged file fewer), None where unknown
    - `fps`: the nominal rate in frames per second, None where unknown
    """

    camera: str
    live: bool
    frames: int | None
    fps: float | None

    @abc.abstractmethod
    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end of the source or once it is closed.

        `Frame.seq` counts from 0 and a frame that is lost uses up its number. Raises `FrameError`
        where one frame is lost and reading can go on, `CaptureError` where the source is broken.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the device; may be called twice, and from another thread during `read`."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def safe_name(text: str) -> str:
    """The nearest name to `text` that ROS and topics accept: `[A-Za-z_][A-Za-z0-9_]*`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain, flags=re.ASCII).strip("_")
    if not name:
        return "camera"
    return f"camera_{name}" if name[0].isdigit() else name


def check_camera_name(name: str) -> str:
    """`name` itself, where it can be a ROS `frame_id` and a part of a topic.

    Raises `ConfigError` with a name that can.
    """
    if not _CAMERA_NAME.fullmatch(name):
        raise ConfigError(
            f"camera name '{name}': letters, digits and _ are allowed, parts are separated by / "
            f"and none begins with a digit; try '{safe_name(name)}'"
        )
    return name
