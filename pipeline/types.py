"""What travels through the pipeline: frames in, detections and classifications out.

Converters to other forms (JSON, ROS messages, the wire, COCO) live beside the thing they serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""Pixels, (H, W, 3) uint8, channels in the order blue, green, red."""

Labels = Sequence[str]

_UNTRACKED = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Header:
    """Which picture something belongs to, without its pixels.

    `stamp_ns` is the capture time in nanoseconds since the Unix epoch; `seq` the source's own
    count, so that a gap is a dropped frame; `width` and `height` are pixels of the source frame.
    """

    camera: str
    seq: int
    stamp_ns: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture from one camera.

    `image` is (H, W, 3) uint8 BGR and is made read-only, because several stages look at the same
    pixels at once. `stamp_ns` is taken at the grab, never at processing.

    Raises `ValueError` where the image has another shape or dtype.
    """

    image: Image
    stamp_ns: int
    seq: int
    camera: str

    def __post_init__(self) -> None:
        check_image("Frame.image", self.image)
        self.image.flags.writeable = False

    @property
    def header(self) -> Header:
        height, width = self.image.shape[:2]
        return Header(self.camera, self.seq, self.stamp_ns, width, height)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects of one frame as parallel arrays, best score first.

    - `boxes` (n, 4) float32: x1 y1 x2 y2 in pixels of the source frame, clipped to it
    - `scores` (n,) float32 in [0, 1]
    - `class_ids` (n,) int32, indices into `labels`
    - `track_ids` (n,) int64, -1 where there is no track
    - `labels`: the names of all classes of the model

    Raises `ValueError` where the arrays do not fit one another.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    labels: Labels
    track_ids: npt.NDArray[np.int64] = field(default_factory=lambda: _UNTRACKED)

    def __post_init__(self) -> None:
        n = len(self.boxes)
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
    """The k best finer names of each of n boxes, best first; row i belongs to box i.

    - `ids` (n, k) int32, indices into `labels`
    - `scores` (n, k) float32, softmax probabilities

    Raises `ValueError` where the two arrays differ in shape.
    """

    ids: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    labels: Labels

    def __post_init__(self) -> None:
        if self.ids.ndim != 2:
            raise ValueError(
                f"Classifications.ids must have shape (n, k), but got {self.ids.shape}"
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
class Result:
    """What was found in one frame; `len(detections) == 0` where nothing was.

    `classifications` is None where no classifier runs. `stage_ns` is the time in nanoseconds that
    each stage worked on this frame, by the stage's name. `image` is the frame's own picture,
    read-only, or None where the result came without it (over a network).
    """

    header: Header
    detections: Detections
    classifications: Classifications | None = None
    stage_ns: Mapping[str, int] = field(default_factory=dict)
    image: Image | None = None


def check_image(subject: str, image: npt.NDArray[np.generic]) -> None:
    """Raise `ValueError` unless `image` is a non-empty (H, W, 3) uint8 array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"{subject} must be a non-empty (H, W, 3) uint8 array, "
            f"but got shape {image.shape} of {image.dtype}"
        )


def _expect(
    subject: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{subject} must have shape {shape} and dtype {np.dtype(dtype)}, "
            f"but got shape {array.shape} and dtype {array.dtype}"
        )
