"""The executables that `ros2 run` starts; without ROS 2 they print one line and exit."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys

from pipeline.runtime.signals import caught_signals


def vision_node() -> None:
    """Capture or subscribe, detect and classify in one process."""
    _run("vision_node")


def camera_node() -> None:
    """Publish the frames of a source as image topics."""
    _run("camera_node")


def detector_node() -> None:
    """Subscribe to images, publish detections."""
    _run("detector_node")


def classifier_node() -> None:
    """Subscribe to images and detections, add classes to the detections."""
    _run("classifier_node")


def _run(name: str) -> None:
    missing = [p for p in ("rclpy", "vision_msgs") if importlib.util.find_spec(p) is None]
    if missing:
        sys.exit(
            f"{name}: needs {' and '.join(missing)} of a ROS 2 distribution: "
            "source /opt/ros/DISTRIBUTION/setup.bash and the workspace's setup.bash, "
            "or apt install ros-DISTRIBUTION-vision-msgs"
        )
    # While modules load there is nothing to close. The node replaces these handlers.
    for number in caught_signals():
        signal.signal(number, lambda *_: os._exit(0))
    importlib.import_module(f"nodes.{name}").main()
