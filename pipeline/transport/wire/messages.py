"""Encodes and decodes messages, and checks everything that arrives.

A message has three or more parts: the topic (`frame/CAMERA` or `result/CAMERA`), a MessagePack
header, the payload, and one further part for each plane of a frame. A message of two parts, topic
and header, is the last of its topic. Anyone who reaches a socket can send anything, so the number
of parts, the type and range of every field and all sizes are checked. An invalid message raises
`WireError` and no other exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from pipeline.transport.wire.schema import (
    CHANNELS,
    MAX_FRAME_HEADER,
    MAX_PARTS,
    MAX_RESULT_HEADER,
    MAX_TOPIC,
    OLDEST_VERSION,
    VERSION,
    EndHeader,
    Envelope,
    FrameHeader,
    Limits,
    ResultHeader,
    SharedReference,
    WireError,
    frame_topic,
    result_nbytes,
    result_topic,
    unit_of,
)


class _Version(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True, eq=False)
class FrameMessage:
    """A valid frame; `payload` and `planes` hold its values unless `reference` is set."""

    header: FrameHeader
    payload: memoryview
    planes: Sequence[memoryview] = ()
    reference: SharedReference | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ResultMessage:
    """A result whose header is valid and whose payload has the right size."""

    header: ResultHeader
    payload: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class EndMessage:
    """The last message of a topic."""

    header: EndHeader


Message = FrameMessage | ResultMessage
T = TypeVar("T")
E = TypeVar("E", bound=Envelope | EndHeader)

_encoder = msgspec.msgpack.Encoder()
_version_decoder = msgspec.msgpack.Decoder(_Version)
_frame_decoder = msgspec.msgpack.Decoder(FrameHeader)
_result_decoder = msgspec.msgpack.Decoder(ResultHeader)
_end_decoder = msgspec.msgpack.Decoder(EndHeader)
_reference_decoder = msgspec.msgpack.Decoder(SharedReference)


def encode(struct: Envelope | EndHeader | SharedReference) -> bytes:
    """A header or reference as MessagePack.

    Raises `WireError` if a receiver would refuse it for its size.
    """
    data = _encoder.encode(struct)
    largest = MAX_RESULT_HEADER if isinstance(struct, ResultHeader) else MAX_FRAME_HEADER
    if len(data) > largest:
        raise WireError("size", f"a header of {len(data)} bytes; at most {largest} can be sent")
    return data


def decode(parts: Sequence[Any], limits: Limits) -> Message | EndMessage:
    """The message that the parts (bytes or other buffers) hold, checked.

    Raises `WireError` if it is invalid.
    """
    if not 2 <= len(parts) <= MAX_PARTS:
        raise WireError("parts", f"a message of {len(parts)} parts came; expected 2 to {MAX_PARTS}")
    topic, header, *payloads = (memoryview(part) for part in parts)
    name = _topic(topic)
    if not name.startswith((b"frame/", b"result/")):
        raise WireError("topic", "the topic is neither frame/CAMERA nor result/CAMERA")
    if not payloads:
        return _end(name, header)
    if name.startswith(b"frame/"):
        return _frame(name, header, payloads, limits)
    return _result(name, header, payloads[0])


def _topic(topic: memoryview) -> bytes:
    if topic.nbytes > MAX_TOPIC:
        raise WireError("topic", f"a topic of {topic.nbytes} bytes came; at most {MAX_TOPIC}")
    return bytes(topic)


def _frame(
    topic: bytes, data: memoryview, payloads: list[memoryview], limits: Limits
) -> FrameMessage:
    header = _header(data, _frame_decoder, MAX_FRAME_HEADER)
    _expect_topic(topic, frame_topic(header.camera))
    if header.planes:
        _check_planes(header)
    if header.nbytes > limits.max_frame_bytes:
        raise WireError(
            "size",
            f"an image of {header.width} x {header.height} pixels and {len(header.planes)} planes "
            f"came, more than {limits.max_frame_mb} MiB; raise --max-frame-mb if that is right",
        )
    payload, *planes = payloads
    expected = 0 if header.kind == "shm" else len(header.planes)
    if len(planes) != expected:
        raise WireError("parts", f"payloads of {len(planes)} planes came; expected {expected}")
    if header.kind == "shm":
        return FrameMessage(header, payload, reference=_reference(payload))
    if header.kind == "raw" and payload.nbytes != header.image_nbytes:
        raise WireError(
            "size",
            f"{payload.nbytes} bytes of pixels came; {header.width} x {header.height} x {CHANNELS} "
            f"are {header.image_nbytes}",
        )
    for plane, values in zip(header.planes, planes, strict=True):
        if values.nbytes != plane.nbytes:
            raise WireError(
                "size",
                f"{values.nbytes} bytes of plane '{plane.name}' came; {plane.shape} of "
                f"{plane.dtype} are {plane.nbytes}",
            )
    if payload.nbytes > limits.max_frame_bytes:
        raise WireError(
            "size", f"a payload of {payload.nbytes} bytes; at most {limits.max_frame_bytes}"
        )
    return FrameMessage(header, payload, planes)


def _check_planes(header: FrameHeader) -> None:
    """Raise `WireError` unless each plane has a name of its own, the image's size and its unit."""
    if len({plane.name for plane in header.planes}) != len(header.planes):
        raise WireError("header", "two planes have the same name")
    for plane in header.planes:
        if plane.shape[:2] != (header.height, header.width):
            raise WireError(
                "header",
                f"plane '{plane.name}' has shape {plane.shape}, and the image has "
                f"{header.height} rows of {header.width} pixels",
            )
        if plane.unit not in {"", unit_of(plane.name, plane.dtype)}:
            raise WireError(
                "header",
                f"plane '{plane.name}' of {plane.dtype} has the unit '{plane.unit}'; expected "
                f"'{unit_of(plane.name, plane.dtype)}'",
            )


def _result(topic: bytes, data: memoryview, payload: memoryview) -> ResultMessage:
    header = _header(data, _result_decoder, MAX_RESULT_HEADER)
    _expect_topic(topic, result_topic(header.camera))
    expected = result_nbytes(header.objects, header.top)
    if payload.nbytes != expected:
        raise WireError(
            "size",
            f"{payload.nbytes} bytes of results came; {header.objects} objects with "
            f"{header.top} classes each are {expected}",
        )
    return ResultMessage(header, payload)


def _end(topic: bytes, data: memoryview) -> EndMessage:
    header = _header(data, _end_decoder, MAX_FRAME_HEADER)
    if topic not in {frame_topic(header.camera), result_topic(header.camera)}:
        raise WireError("topic", "the topic and the header name different cameras")
    return EndMessage(header)


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
    if not OLDEST_VERSION <= version <= VERSION:
        older = "receiver" if version > VERSION else "sender"
        raise WireError(
            "version",
            f"a message of version {version} came, and this end reads versions {OLDEST_VERSION} "
            f"to {VERSION}; update the {older}",
        )


def _reference(payload: memoryview) -> SharedReference:
    if payload.nbytes > MAX_TOPIC:
        raise WireError("size", f"a reference of {payload.nbytes} bytes; at most {MAX_TOPIC}")
    return _decoded(_reference_decoder, payload, "payload")


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: memoryview, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(what, f"the {what} is invalid: {error}") from error


def _expect_topic(topic: bytes, expected: bytes) -> None:
    if topic != expected:
        raise WireError("topic", "the topic and the header name different cameras")
