"""The executables that `ros2 run` starts: one line, not a traceback, where ROS 2 is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys


def vision_node() -> None:
    """Everything in one process."""
    _run("vision_node")


def camera_node() -> None:
    """Any source of frames as image topics."""
    _run("camera_node")


def detector_node() -> None:
    """Images in, detections out."""
    _run("detector_node")


def classifier_node() -> None:
    """Images and detections in, finer names out."""
    _run("classifier_node")


def _run(name: str) -> None:
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
    importlib.import_module(f"nodes.{name}").main()
