"""Frames whose origin is a ROS message header, so that results publish it verbatim."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from std_msgs.msg import Header as HeaderMessage

from nodes.messages.detection_messages import header_message, stamp_ns
from pipeline.types import Frame, Image, Result


class Origin(NamedTuple):
    """The ROS header of an image, and its number among its camera's readable images."""

    header: HeaderMessage
    number: int


def frame_of_message(image: Image, header: Any, camera: str, seq: int, number: int) -> Frame:
    """A frame of a message's image; its origin is the message's header itself."""
    return Frame(image, stamp_ns(header), seq, camera, origin=Origin(header, number))


def header_of_capture(frame: Frame) -> Any:
    """The header for the results of a captured frame: its capture time and its camera."""
    return header_message(frame.stamp_ns, frame.camera)


def frame_of_capture(frame: Frame, header: Any, number: int) -> Frame:
    """A captured frame whose origin is `header`."""
    return dataclasses.replace(frame, origin=Origin(header, number))


def origin_of(result: Result) -> Origin:
    """The origin of a result's frame.

    Raises `TypeError` if the frame did not come from a node's source.
    """
    origin = None if result.frame is None else result.frame.origin
    if not isinstance(origin, Origin):
        raise TypeError(f"expected a frame with a ROS header, but got {type(origin).__name__}")
    return origin
