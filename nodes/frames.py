"""Frames that remember where they came from, so that a message's header comes back verbatim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from std_msgs.msg import Header as HeaderMessage

from nodes.detection_messages import header_message, stamp_ns
from pipeline.types import Frame, Header, Image


class Origin(NamedTuple):
    """The header that a picture came with, and which of its camera's readable ones it is."""

    header: HeaderMessage
    number: int


@dataclass(frozen=True)
class OriginHeader(Header):
    """A `Header` that brings its origin along, through the engine into the `Result`."""

    origin: Origin


@dataclass(frozen=True, eq=False)
class OriginFrame(Frame):
    """A `Frame` whose results have an `OriginHeader`."""

    origin: Origin

    @property
    def header(self) -> OriginHeader:
        """As of every frame, and the origin."""
        height, width = self.image.shape[:2]
        return OriginHeader(self.camera, self.seq, self.stamp_ns, width, height, self.origin)


def frame_of_message(image: Image, header: Any, camera: str, seq: int, number: int) -> OriginFrame:
    """A frame of a message's picture; its results give back the message's header itself."""
    return OriginFrame(image, stamp_ns(header), seq, camera, Origin(header, number))


def header_of_capture(frame: Frame) -> Any:
    """What a captured frame's results are stamped with: its capture time and its camera."""
    return header_message(frame.stamp_ns, frame.camera)


def frame_of_capture(frame: Frame, header: Any, number: int) -> OriginFrame:
    """A captured frame whose results have `header`."""
    return OriginFrame(frame.image, frame.stamp_ns, frame.seq, frame.camera, Origin(header, number))
