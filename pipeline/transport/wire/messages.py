"""What a message looks like, and the check of everything that arrives.

A message has three parts: the topic (`frame/CAMERA` or `result/CAMERA`), a MessagePack header, and
the payload. Whoever can reach a socket can send anything, so nothing in a message is believed
before it is checked: the number of parts, the type and range of every field, and that the sizes
agree with one another. What does not hold is a `WireError`, never anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pipeline.errors import RunError

VERSION = 1
CHANNELS = 3
MAX_FRAME_HEADER = 4 * 1024
MAX_RESULT_HEADER = 1024 * 1024
MAX_TOPIC = 256
MAX_CAMERA = 128
MAX_SIDE = 32_768
MAX_OBJECTS = 10_000
MAX_TOP = 1_000
MEBI = 1 << 20

_INT64 = 2**63 - 1
CAMERA_PATTERN = r"\A[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*\Z"
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


class WireError(RunError):
    """A message that cannot be sent, or that came and is not what it must be.

    `reason` is one word for it: parts, topic, version, header, size, payload.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every header holds.

    - `sender`: a random number that a publisher draws when it starts
    - `count`: how many messages the sender has sent under this topic before this one, so that a
      gap is a message lost on the way, whereas a gap in `seq` is a frame that was never sent
    - `camera`, `seq`, `stamp_ns`, `width`, `height`: those of `pipeline.types.Header`
    - `sent_ns`: when it was sent, in ns since the epoch on the sender's clock
    - `steady_ns`: the same moment on the sender's monotonic clock, which nobody sets back
    - `clock_port`: the TCP port of the sender's clock service, 0 where it has none
    - `clock_offset_ns`, `clock_error_ns`: how far the clock that `stamp_ns` was read from is ahead
      of the sender's clock, and how far that may be off; both 0 where it is the sender's own
    """

    version: int = VERSION
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


class FrameHeader(Envelope, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The header of a picture; `kind` says how the payload holds its pixels."""

    kind: Literal["raw", "jpeg", "shm"]

    @property
    def nbytes(self) -> int:
        """The size of the picture's pixels in bytes."""
        return self.width * self.height * CHANNELS


class ResultHeader(Envelope, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The header of a result; the payload holds the arrays, see `wire_result`.

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


class SharedReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where in shared memory a picture is: the ring's id, the slot, and the slot's generation."""

    ring: Annotated[str, msgspec.Meta(pattern=RING_PATTERN)]
    slot: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    generation: Number


class _Version(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


@dataclass(frozen=True)
class Limits:
    """What a receiver takes: pictures of at most `max_frame_mb` MiB, decoded or not."""

    max_frame_mb: int = 32

    @property
    def max_frame_bytes(self) -> int:
        return self.max_frame_mb * MEBI

    @property
    def max_part_bytes(self) -> int:
        """The largest part of any message."""
        return max(self.max_frame_bytes, MAX_RESULT_HEADER)


@dataclass(frozen=True, slots=True, eq=False)
class FrameMessage:
    """A picture that passed every check; `payload` holds its pixels unless `reference` is set."""

    header: FrameHeader
    payload: memoryview
    reference: SharedReference | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ResultMessage:
    """A result whose header passed every check and whose payload has the right size."""

    header: ResultHeader
    payload: memoryview


Message = FrameMessage | ResultMessage
T = TypeVar("T")
E = TypeVar("E", bound=Envelope)

_encoder = msgspec.msgpack.Encoder()
_version_decoder = msgspec.msgpack.Decoder(_Version)
_frame_decoder = msgspec.msgpack.Decoder(FrameHeader)
_result_decoder = msgspec.msgpack.Decoder(ResultHeader)
_reference_decoder = msgspec.msgpack.Decoder(SharedReference)


def frame_topic(camera: str) -> bytes:
    """The topic that a camera's pictures are sent under."""
    return b"frame/" + camera.encode("ascii")


def result_topic(camera: str) -> bytes:
    """The topic that the results on a camera's pictures are sent under."""
    return b"result/" + camera.encode("ascii")


def encode(struct: Envelope | SharedReference) -> bytes:
    """A header or reference as MessagePack.

    Raises `WireError` where a receiver would refuse it for its size.
    """
    data = _encoder.encode(struct)
    largest = MAX_RESULT_HEADER if isinstance(struct, ResultHeader) else MAX_FRAME_HEADER
    if len(data) > largest:
        raise WireError("size", f"a header of {len(data)} bytes; at most {largest} can be sent")
    return data


def decode(parts: Sequence[Any], limits: Limits) -> Message:
    """The message that the parts (bytes or other buffers) hold, checked.

    Raises `WireError` where they hold none.
    """
    if len(parts) != 3:
        raise WireError("parts", f"a message of {len(parts)} parts came; expected 3")
    topic, header, payload = (memoryview(part) for part in parts)
    name = _topic(topic)
    if name.startswith(b"frame/"):
        return _frame(name, header, payload, limits)
    if name.startswith(b"result/"):
        return _result(name, header, payload)
    raise WireError("topic", "the topic is neither frame/CAMERA nor result/CAMERA")


def _topic(topic: memoryview) -> bytes:
    if topic.nbytes > MAX_TOPIC:
        raise WireError("topic", f"a topic of {topic.nbytes} bytes came; at most {MAX_TOPIC}")
    return bytes(topic)


def _frame(topic: bytes, data: memoryview, payload: memoryview, limits: Limits) -> FrameMessage:
    header = _header(data, _frame_decoder, MAX_FRAME_HEADER)
    _expect_topic(topic, frame_topic(header.camera))
    if header.nbytes > limits.max_frame_bytes:
        raise WireError(
            "size",
            f"a picture of {header.width} x {header.height} pixels came, more than "
            f"{limits.max_frame_mb} MiB; raise --max-frame-mb where that is right",
        )
    if header.kind == "shm":
        return FrameMessage(header, payload, _reference(payload))
    if header.kind == "raw" and payload.nbytes != header.nbytes:
        raise WireError(
            "size",
            f"{payload.nbytes} bytes of pixels came; {header.width} x {header.height} x {CHANNELS} "
            f"are {header.nbytes}",
        )
    if payload.nbytes > limits.max_frame_bytes:
        raise WireError(
            "size", f"a payload of {payload.nbytes} bytes; at most {limits.max_frame_bytes}"
        )
    return FrameMessage(header, payload)


def _result(topic: bytes, data: memoryview, payload: memoryview) -> ResultMessage:
    header = _header(data, _result_decoder, MAX_RESULT_HEADER)
    _expect_topic(topic, result_topic(header.camera))
    expected = result_nbytes(header.objects, header.top)
    if payload.nbytes != expected:
        raise WireError(
            "size",
            f"{payload.nbytes} bytes of results came; {header.objects} objects with "
            f"{header.top} finer names are {expected}",
        )
    return ResultMessage(header, payload)


def result_nbytes(objects: int, top: int | None) -> int:
    """The size of a result's payload: box, score, class, track; id and score per finer name."""
    return objects * (16 + 4 + 4 + 8 + 8 * (top or 0))


def _header(data: memoryview, decoder: msgspec.msgpack.Decoder[E], largest: int) -> E:
    if data.nbytes > largest:
        raise WireError("header", f"a header of {data.nbytes} bytes came; at most {largest}")
    try:
        header = _decoded(decoder, data, "header")
    except WireError:
        _check_version(_decoded(_version_decoder, data, "header").version)
        raise
    _check_version(header.version)
    return header


def _check_version(version: int) -> None:
    if version != VERSION:
        older = "receiver" if version > VERSION else "sender"
        raise WireError(
            "version",
            f"a message of version {version} came, and this end speaks version {VERSION}; "
            f"update the {older}",
        )


def _reference(payload: memoryview) -> SharedReference:
    if payload.nbytes > MAX_TOPIC:
        raise WireError("size", f"a reference of {payload.nbytes} bytes; at most {MAX_TOPIC}")
    return _decoded(_reference_decoder, payload, "payload")


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: memoryview, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(what, f"the {what} is not valid: {error}") from error


def _expect_topic(topic: bytes, expected: bytes) -> None:
    if topic != expected:
        raise WireError("topic", "the topic and the header name different cameras")
