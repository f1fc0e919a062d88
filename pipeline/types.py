"""The data that travels through the pipeline: frames, detections, classifications, results.

Converters to other forms (JSON, ROS messages, the wire, COCO) live beside the thing they serve.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""Pixels, (H, W, 3) uint8, channels in the order blue, green, red."""

Labels = Sequence[str]

Plane = npt.NDArray[Any]
"""Values aligned with an image, (H, W) or (H, W, C), such as depth: float32 m or uint16 mm."""

MAX_INT64 = 2**63 - 1
"""The largest number of a frame and the latest time, which messages and ROS can hold."""

_NO_PLANES: Mapping[str, Plane] = MappingProxyType({})
_UNTRACKED = np.empty(0, np.int64)


@dataclass(frozen=True)
class ClockOffset:
    """How far another clock is ahead of this machine's: `offset_ns`, plus or minus `error_ns`."""

    offset_ns: int = 0
    error_ns: int = 0

    def plus(self, other: ClockOffset) -> ClockOffset:
        """The offset of a third clock, which is `other` ahead of the one described here."""
        return ClockOffset(self.offset_ns + other.offset_ns, self.error_ns + other.error_ns)

    @property
    def is_known(self) -> bool:
        """Whether the offset was measured."""
        return self.error_ns < UNKNOWN_NS


SAME_CLOCK = ClockOffset()
UNKNOWN_NS = 10**18
"""An error as large as this means that the offset of a clock is not known."""
UNKNOWN_CLOCK = ClockOffset(0, UNKNOWN_NS)


@dataclass(frozen=True, slots=True)
class Header:
    """Identifies a frame without carrying its pixels.

    - `camera`: the name of the camera (ROS `frame_id`, part of a ZeroMQ topic)
    - `seq`: the source's own count, so that a gap is a dropped frame
    - `stamp_ns`: capture time in ns since the Unix epoch
    - `width`, `height`: pixels of the source frame
    - `read_ns`: when the frame was read, in ns since the Unix epoch
    - `recorded`: the frame comes from a recording, so its age counts from `read_ns`
    """

    camera: str
    seq: int
    stamp_ns: int
    width: int
    height: int
    read_ns: int = field(default=0, compare=False)
    recorded: bool = False

    @property
    def age_start_ns(self) -> int:
        """The time from which the frame's age counts: its capture, or its read if recorded."""
        return self.read_ns if self.recorded else self.stamp_ns


@dataclass(frozen=True, slots=True)
class Media:
    """Where a recorded frame is: its file, and the seconds from the first frame of a video."""

    file: str
    time_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image from one camera.

    - `image`: (H, W, 3) uint8 BGR; made read-only, because stages share its pixels
    - `stamp_ns`: capture time in ns since the Unix epoch, taken at the grab, never at processing;
      of a recording its start plus the frame's time in it
    - `seq`: the source's own count, so that a gap is a dropped frame
    - `camera`: the name of the camera
    - `planes`: further arrays aligned with the image, by name; made read-only
    - `read_ns`: when this process read the frame, in ns since the Unix epoch; now by default
    - `recorded`: the frame comes from a recording, so its age counts from `read_ns`
    - `origin`: anything that the source wants back with the result, such as a ROS header
    - `media`: the file that it comes from, None for other sources

    Raises `ValueError` if a field has another type, or the image or a plane another shape or dtype.
    """

    image: Image
    stamp_ns: int
    seq: int
    camera: str
    planes: Mapping[str, Plane] = field(default_factory=lambda: _NO_PLANES)
    read_ns: int = field(default_factory=time.time_ns)
    recorded: bool = False
    origin: Any = None
    media: Media | None = None

    def __post_init__(self) -> None:
        check_image("Frame.image", self.image)
        self.image.flags.writeable = False
        if not (  # a fast check of the usual types
            type(self.camera) is str
            and type(self.seq) is type(self.stamp_ns) is type(self.read_ns) is int
            and 0 <= self.seq <= MAX_INT64
            and 0 <= self.stamp_ns <= MAX_INT64
            and 0 <= self.read_ns <= MAX_INT64
        ):
            self._check_fields()
        if self.planes is not _NO_PLANES:
            self._check_planes()

    def _check_fields(self) -> None:
        """Replace NumPy's integers by Python's; raise `ValueError` for a field of another type."""
        for name in ("seq", "stamp_ns", "read_ns"):
            value = getattr(self, name)
            is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not is_whole or not 0 <= value <= MAX_INT64:
                raise ValueError(
                    f"Frame.{name} must be a whole number from 0 to 2**63 - 1, "
                    f"but got {described(value)}"
                )
            object.__setattr__(self, name, int(value))
        if not isinstance(self.camera, str):  # may be empty, as a ROS frame_id is by default
            raise ValueError(
                f"Frame.camera must be a text that names the camera, "
                f"but got {described(self.camera)}"
            )

    def _check_planes(self) -> None:
        """Make the planes read-only; raise `ValueError` if one does not fit the image."""
        if not isinstance(self.planes, Mapping):
            raise ValueError(
                f"Frame.planes must map names to arrays, but got {described(self.planes)}"
            )
        for name, plane in self.planes.items():
            if not isinstance(plane, np.ndarray) or plane.shape[:2] != self.image.shape[:2]:
                raise ValueError(
                    f"Frame.planes[{name!r}] must be an array of the image's size "
                    f"{self.image.shape[:2]}, but got {described(plane)}"
                )
            plane.flags.writeable = False

    @property
    def header(self) -> Header:
        height, width = self.image.shape[:2]
        return Header(
            self.camera, self.seq, self.stamp_ns, width, height, self.read_ns, self.recorded
        )


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects of one frame as parallel arrays, best score first.

    - `boxes` (n, 4) float32: x1 y1 x2 y2 in pixels of the source frame, clipped to it
    - `scores` (n,) float32 in [0, 1]
    - `class_ids` (n,) int32, indices into `labels`
    - `track_ids` (n,) int64, -1 without a track
    - `labels`: the names of all classes of the model

    Raises `ValueError` if the arrays do not fit one another.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    labels: Labels
    track_ids: npt.NDArray[np.int64] = field(default_factory=lambda: _UNTRACKED)

    def __post_init__(self) -> None:
        n = _rows(self.boxes)
        if self.track_ids is _UNTRACKED:
            object.__setattr__(self, "track_ids", np.full(n, -1, np.int64))
        _expect("Detections.boxes", self.boxes, (n, 4), np.float32)
        _expect("Detections.scores", self.scores, (n,), np.float32)
        _expect("Detections.class_ids", self.class_ids, (n,), np.int32)
        _expect("Detections.track_ids", self.track_ids, (n,), np.int64)

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, labels: Labels) -> Detections:
        """No objects at all."""
        return cls(
            np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), labels
        )


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The k best classes of each of n boxes, best first; row i belongs to box i.

    - `ids` (n, k) int32, indices into `labels`
    - `scores` (n, k) float32, softmax probabilities

    Raises `ValueError` if the two arrays differ in shape.
    """

    ids: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    labels: Labels

    def __post_init__(self) -> None:
        if not isinstance(self.ids, np.ndarray) or self.ids.ndim != 2:
            raise ValueError(
                f"Classifications.ids must be an array of shape (n, k), "
                f"but got {described(self.ids)}"
            )
        _expect("Classifications.ids", self.ids, self.ids.shape, np.int32)
        _expect("Classifications.scores", self.scores, self.ids.shape, np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, labels: Labels, top: int) -> Classifications:
        """No boxes, hence no rows."""
        return cls(np.empty((0, top), np.int32), np.empty((0, top), np.float32), labels)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """The motion of each of n objects; row i belongs to box i.

    - `ids` (n,) int64, as in `Detections.track_ids`; the rest of a row with -1 is 0
    - `velocities` (n, 2) float32, of the box's centre in pixels per second, x and y
    - `ages_s` (n,) float32, seconds since the object was first seen
    - `gaps_s` (n,) float32, seconds since it was seen before this frame

    Raises `ValueError` if the arrays do not fit one another.
    """

    ids: npt.NDArray[np.int64]
    velocities: npt.NDArray[np.float32]
    ages_s: npt.NDArray[np.float32]
    gaps_s: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = _rows(self.ids)
        _expect("Tracks.ids", self.ids, (n,), np.int64)
        _expect("Tracks.velocities", self.velocities, (n, 2), np.float32)
        _expect("Tracks.ages_s", self.ages_s, (n,), np.float32)
        _expect("Tracks.gaps_s", self.gaps_s, (n,), np.float32)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What was found in one frame; `len(detections) == 0` if nothing was.

    - `header`: identifies the frame
    - `classifications`: None if no classifier runs
    - `stage_ns`: the time in ns that each stage worked on this frame, by the stage's name
    - `frame`: the frame itself, or None if the result came without it (over a network)
    - `tracks`: None if no tracker runs
    """

    header: Header
    detections: Detections
    classifications: Classifications | None = None
    stage_ns: Mapping[str, int] = field(default_factory=dict)
    frame: Frame | None = None
    tracks: Tracks | None = None

    @property
    def image(self) -> Image | None:
        """The frame's pixels, read-only, or None if the result came without its frame."""
        return None if self.frame is None else self.frame.image


def check_image(subject: str, image: npt.NDArray[np.generic]) -> None:
    """Raise `ValueError` unless `image` is a non-empty (H, W, 3) uint8 array."""
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or image.shape[2] != 3
        or image.dtype != np.uint8
        or image.size == 0
    ):
        raise ValueError(
            f"{subject} must be a non-empty (H, W, 3) uint8 array, but got {described(image)}"
        )


def described(value: object) -> str:
    """A value for a message: shape and dtype of an array, else its type and its text."""
    if isinstance(value, np.ndarray):
        return f"shape {value.shape} of {value.dtype}"
    if value is None:
        return "None"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else f'{text[:57]}...'}"


def _rows(array: object) -> int:
    """The length of an array, 0 for what is none and so is refused."""
    return len(array) if isinstance(array, np.ndarray) and array.ndim else 0


def _expect(
    subject: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{subject} must be an array of shape {shape} and dtype {np.dtype(dtype)}, "
            f"but got {described(array)}"
        )
