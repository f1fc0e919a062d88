"""ROS message headers, and the origin that keeps an image's header with its frame."""

from __future__ import annotations

from typing import NamedTuple

from builtin_interfaces.msg import Time
from std_msgs.msg import Header as HeaderMessage

from pipeline.types import Result

NANOSECONDS = 1_000_000_000


class Origin(NamedTuple):
    """The ROS header of a frame, and its number among its camera's readable images."""

    header: HeaderMessage
    number: int


def stamp_ns(header: HeaderMessage) -> int:
    """The stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def header_message(stamp: int, frame_id: str) -> HeaderMessage:
    """A header with a stamp in nanoseconds and a `frame_id`."""
    seconds, nanoseconds = divmod(stamp, NANOSECONDS)
    return HeaderMessage(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def origin_of(result: Result) -> Origin:
    """The origin of a result's frame.

    Raises `TypeError` if the frame did not come from a node's source.
    """
    origin = None if result.frame is None else result.frame.origin
    if not isinstance(origin, Origin):
        raise TypeError(f"expected a frame with a ROS header, but got {type(origin).__name__}")
    return origin
