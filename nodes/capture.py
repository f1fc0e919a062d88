"""The parameters that say what a node captures, and what they open."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import Clock

from nodes.messages.detection_messages import header_message
from nodes.parameters.declaration import Parameter, Parameters
from pipeline.capture.open import is_stored
from pipeline.capture.paced import Paced
from pipeline.source import Source
from pipeline.sources import AnySource, open_source
from pipeline.types import Frame

CAPTURE = (
    Parameter(
        "source",
        "",
        "where images come from: a camera number, /dev/videoN, a file, a folder, rtsp://, http://, "
        "zmq+tcp://HOST:PORT/CAMERA, or scene: for the built-in scene",
    ),
    Parameter("frame_id", "", "of the images' headers; empty takes the source's own name"),
    Parameter("width", 0, "pixels asked of a camera; 0 leaves it to the camera", 0, 16384),
    Parameter("height", 0, "pixels asked of a camera; 0 leaves it to the camera", 0, 16384),
    Parameter(
        "fps",
        0.0,
        "frames a second asked of a camera, or at which files are played; 0 for their own rate",
        0.0,
        1000.0,
    ),
    Parameter("fourcc", "", "pixel format asked of a camera, such as MJPG; empty for its own"),
    Parameter(
        "open_timeout", 5.0, "seconds within which a camera or stream must deliver", 0.1, 3600.0
    ),
    Parameter("retry", False, "open the source again, with pauses, until it is there"),
    Parameter("loop", False, "play a file again from its beginning when it has ended"),
)


def open_capture(parameters: Parameters) -> AnySource:
    """Open what the parameters name; files are played at their own rate, as a camera would.

    Waits for the source. Raises `SourceError` where it cannot be opened.
    """
    text, fps = parameters["source"], parameters["fps"] or None
    source = open_source(
        text,
        width=parameters["width"] or None,
        height=parameters["height"] or None,
        fps=None if is_stored(text) else fps,
        fourcc=parameters["fourcc"] or None,
        open_timeout_s=parameters["open_timeout"],
    )
    return Paced(source, fps) if isinstance(source, Source) and not source.live else source


def capture_header(frame: Frame, clock: Clock, parameters: Parameters) -> Any:
    """A captured frame's header, stamped by the node's clock, which may be a simulated one."""
    stamp = frame.stamp_ns
    if clock.ros_time_is_active:
        stamp = max(0, clock.now().nanoseconds - (time.time_ns() - stamp))
    return header_message(stamp, parameters["frame_id"] or frame.camera)
