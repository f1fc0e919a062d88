"""A viewer that no longer reads costs images, and no detections."""

from __future__ import annotations

import signal
import sys
import time

import pytest
from vision_msgs.msg import Detection2DArray

from nodes.messages.headers import stamp_ns

VIEWER = """
import sys
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("viewer")
seen = []
def show(message):
    if not seen:
        print("seen", flush=True)
    seen.append(message.header)
node.create_subscription(Image, sys.argv[1], show, 10)
rclpy.spin(node)
"""
MEASURED_S = 4.0


def rate_and_age_ms(detections) -> tuple[float, float]:
    """Messages per second, and the median age, over the next seconds."""
    ages_ms = []
    detections.clear()
    end_s = time.monotonic() + MEASURED_S
    while time.monotonic() < end_s:
        message = detections.wait(1)[0]
        ages_ms.append((time.time_ns() - stamp_ns(message.header)) / 1e6)
        detections.clear()
    return len(ages_ms) / MEASURED_S, sorted(ages_ms)[len(ages_ms) // 2]


@pytest.mark.parametrize("topic", ["image_raw", "detections/image"])
def test_a_stopped_viewer_does_not_slow_detections(
    start_node, start_process, observer, namespace, topic
):
    node = {"source": "scene:?size=1280x720&fps=20", "classifier": "none"}
    start_node("vision_node", node)
    detections = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    viewer = start_process(sys.executable, "-c", VIEWER, f"{namespace}/{topic}")
    viewer.wait_for_log("seen")
    measured = []
    for _ in range(3):  # a busy machine may delay one measurement, but not three
        rate, age_ms = rate_and_age_ms(detections)
        viewer.send(signal.SIGSTOP)
        try:
            rate_and_age_ms(detections)  # until its buffers are full
            frozen_rate, frozen_age_ms = rate_and_age_ms(detections)
        finally:
            viewer.send(signal.SIGCONT)
        measured.append((rate, frozen_rate, age_ms, frozen_age_ms))
        if frozen_rate > 0.85 * rate and frozen_age_ms < 1.5 * age_ms + 10:
            return
    pytest.fail(f"rates and ages, running and stopped: {measured}")
