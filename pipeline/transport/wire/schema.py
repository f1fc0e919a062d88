"""The schema of the messages: headers, their fields with type and range, and topics.

Version 2 has planes, optional fields and end messages. Fields that this version does not know are
ignored. Messages of version 1 are read as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec

from pipeline.errors import RunError
from pipeline.settings import MAX_SIDE, Settings

VERSION = 2
OLDEST_VERSION = 1
CHANNELS = 3
MAX_FRAME_HEADER = 4 * 1024
MAX_RESULT_HEADER = 1024 * 1024
MAX_TOPIC = 256
MAX_CAMERA = 128
MAX_PLANES = 8
MAX_PARTS = 3 + MAX_PLANES
MAX_OBJECTS = 10_000
MAX_TOP = 1_000
MEBI = 1 << 20
RECEIVED_FRAMES = 16
"""The memory for all that is received, in frames of the largest size (--max-frame-mb)."""
PENDING_SHARE = 4
KEPT_SHARE = 6

_INT64 = 2**63 - 1
CAMERA_PATTERN = r"\A[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*\Z"
PLANE_PATTERN = r"\A[A-Za-z_][A-Za-z0-9_]*\Z"
RING_PATTERN = r"\A[0-9]{1,10}-[0-9a-f]{16}\Z"

Camera = Annotated[str, msgspec.Meta(pattern=CAMERA_PATTERN, max_length=MAX_CAMERA)]
Number = Annotated[int, msgspec.Meta(ge=0, le=_INT64)]
Difference = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Label = Annotated[str, msgspec.Meta(max_length=256)]
ClassId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Labels = Annotated[dict[ClassId, Label], msgspec.Meta(max_length=MAX_OBJECTS)]
StageTimes = Annotated[dict[Name, Number], msgspec.Meta(max_length=64)]
DType = Literal[
    "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"
]
ITEM_BYTES = {name: int(name.lstrip("uintfloa")) // 8 for name in get_args(DType)}


class WireError(RunError):
    """A message that cannot be sent, or that arrived and is invalid.

    `reason` is one word for it: parts, topic, version, header, size, payload.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of every header.

    - `sender`: a random number that a publisher draws when it starts
    - `count`: how many messages the sender has sent under this topic before this one. A gap is a
      message lost on the way, whereas a gap in `seq` is a frame that was never sent
    - `camera`, `seq`, `stamp_ns`, `width`, `height`, `read_ns`, `recorded`: those of
      `pipeline.types.Header`
    - `sent_ns`: when it was sent, in ns since the epoch on the sender's clock
    - `steady_ns`: the same moment on the sender's monotonic clock, which is never set
    - `clock_port`: the TCP port of the sender's clock service, 0 if it has none
    - `clock_offset_ns`, `clock_error_ns`: how far the clock that `stamp_ns` and `read_ns` were read
      from is ahead of the sender's, and the error of that; both 0 if it is the sender's own
    """

    version: int
    sender: Number
    count: Number
    camera: Camera
    seq: Number
    stamp_ns: Number
    sent_ns: Number
    steady_ns: Number
    clock_port: Port = 0
    clock_offset_ns: Difference = 0
    clock_error_ns: Number = 0
    width: Pixels
    height: Pixels
    read_ns: Number = 0
    recorded: bool = False

    @property
    def age_start_ns(self) -> int:
        """The time from which the frame's age counts: its capture, or its read if recorded."""
        return self.read_ns if self.recorded else self.stamp_ns


class PlaneHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """One plane of a frame: an array aligned with the image, little-endian, row by row.

    - `shape`: (height, width) or (height, width, channels); height and width are the image's
    - `unit`: of its values, such as `m` or `mm`; empty if they have none
    - `encoding`: how the payload holds the values
    """

    name: Annotated[str, msgspec.Meta(pattern=PLANE_PATTERN, max_length=64)]
    dtype: DType
    shape: Annotated[tuple[Pixels, ...], msgspec.Meta(min_length=2, max_length=3)]
    unit: Name = ""
    encoding: Literal["raw"] = "raw"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class FrameHeader(Envelope, frozen=True, kw_only=True, omit_defaults=True):
    """The header of a frame; `kind` says how the first payload holds the image's pixels.

    A further payload follows for each of `planes`. With `shm`, the planes lie behind the image in
    shared memory instead, as `wire.frames.layout` says.
    """

    kind: Literal["raw", "jpeg", "shm"]
    planes: Annotated[tuple[PlaneHeader, ...], msgspec.Meta(max_length=MAX_PLANES)] = ()

    @property
    def image_nbytes(self) -> int:
        """The size of the image's pixels in bytes."""
        return self.width * self.height * CHANNELS

    @property
    def nbytes(self) -> int:
        """The size of the image's pixels and of all planes in bytes."""
        if not self.planes:
            return self.image_nbytes
        return self.image_nbytes + sum(plane.nbytes for plane in self.planes)


class ResultHeader(Envelope, frozen=True, kw_only=True, omit_defaults=True):
    """The header of a result; the payload holds the arrays, see `wire.results`.

    - `objects`: how many there are
    - `classes`, `labels`: how many classes the detector knows, and the names of those that occur
      here, so that a message can be read without any before it
    - `top`, `finer_classes`, `finer_labels`: the same of the classifier; `top` is None without one
    - `stage_ns`: the time that each stage took, in ns
    """

    objects: Annotated[int, msgspec.Meta(ge=0, le=MAX_OBJECTS)]
    classes: ClassId
    labels: Labels = {}
    top: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP)] | None = None
    finer_classes: ClassId = 0
    finer_labels: Labels = {}
    stage_ns: StageTimes = {}


class EndHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of the last message of a topic: the sender sent `sent` messages before it."""

    version: int
    sender: Number
    sent: Number
    camera: Camera


class SharedReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a frame is in shared memory: the ring's id, the slot, and the slot's generation."""

    ring: Annotated[str, msgspec.Meta(pattern=RING_PATTERN)]
    slot: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    generation: Number


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts: images of at most `max_frame_mb` MiB, of `max_cameras` cameras.

    The size of an image includes its planes. All that is received takes `RECEIVED_FRAMES` times
    that size at most; of this, messages that wait to be read and frames that wait for their results
    have fixed shares.
    """

    max_frame_mb: int = Settings.max_frame_mb
    max_cameras: int = Settings.max_cameras

    @property
    def max_frame_bytes(self) -> int:
        return self.max_frame_mb * MEBI

    @property
    def max_received_bytes(self) -> int:
        return RECEIVED_FRAMES * self.max_frame_bytes

    @property
    def max_pending_bytes(self) -> int:
        return PENDING_SHARE * self.max_frame_bytes

    @property
    def max_kept_bytes(self) -> int:
        return KEPT_SHARE * self.max_frame_bytes

    @property
    def max_part_bytes(self) -> int:
        """The largest part of any message."""
        return max(self.max_frame_bytes, MAX_RESULT_HEADER)


def frame_topic(camera: str) -> bytes:
    """The topic of a camera's frames."""
    return b"frame/" + camera.encode("ascii")


def result_topic(camera: str) -> bytes:
    """The topic of the results on a camera's frames."""
    return b"result/" + camera.encode("ascii")


def unit_of(name: str, dtype: str) -> str:
    """The unit of a plane: float32 depth is in metres, uint16 depth in millimetres."""
    return {"float32": "m", "uint16": "mm"}.get(dtype, "") if name == "depth" else ""


def result_nbytes(objects: int, top: int | None) -> int:
    """The size of a result's payload: box, score, class, track; id and score per class."""
    return objects * (16 + 4 + 4 + 8 + 8 * (top or 0))
