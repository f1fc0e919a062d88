"""The test environment: vision_msgs messages cross between processes."""

from __future__ import annotations

import sys

from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

TALKER = """
import sys, rclpy
from vision_msgs.msg import Detection2DArray
rclpy.init()
node = rclpy.create_node("echo", namespace=sys.argv[1])
publisher = node.create_publisher(Detection2DArray, "back", 10)
node.create_subscription(Detection2DArray, "there", publisher.publish, 10)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""


def test_detection_array_survives_a_round_trip_to_another_process(
    observer, start_process, namespace, wait_until
):
    start_process(sys.executable, "-c", TALKER, namespace)
    inbox = observer.subscribe(Detection2DArray, "back", heard_from=1)
    publisher = observer.publisher(Detection2DArray, "there")
    box = BoundingBox2D(size_x=320.5, size_y=0.25)
    sent = Detection2DArray(detections=[Detection2D(id="7", bbox=box)])
    sent.header.frame_id = "front/left"
    # The other process may discover the publisher before the subscription.
    wait_until(lambda: inbox.messages, "an echo", again=lambda: publisher.publish(sent))
    assert inbox.messages[0] == sent
