"""The executables that `ros2 run` starts: one line, not a traceback, where ROS 2 is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys


def vision_node() -> int | None:
    """Everything in one process."""
    return _run("vision_node")


def camera_node() -> int | None:
    """Any source of frames as image topics."""
    return _run("camera_node")


def detector_node() -> int | None:
    """Images in, detections out."""
    return _run("detector_node")


def classifier_node() -> int | None:
    """Images and detections in, finer names out."""
    return _run("classifier_node")


def _run(name: str) -> int | None:
    missing = [p for p in ("rclpy", "vision_msgs") if importlib.util.find_spec(p) is None]
    if missing:
        sys.exit(
            f"{name}: needs {' and '.join(missing)}, of a ROS 2 distribution: "
            "source /opt/ros/DISTRIBUTION/setup.bash and the workspace's setup.bash, "
            "or apt install ros-DISTRIBUTION-vision-msgs"
        )
    # While modules load there is nothing to close; the node takes these signals over from here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    return importlib.import_module(f"nodes.{name}").main()
