"""Publishes the results of one camera: detections, labels and images with drawn boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from nodes.images.image_messages import compressed_message, image_message
from nodes.images.image_subscription import COMPRESSED
from nodes.messages.detection_messages import detection_array, label_info
from nodes.parameters.topics import Publishers
from pipeline.output.drawing import annotated
from pipeline.types import Result

LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


class ResultPublisher:
    """The output topics of one camera, under `prefix` (`front/` or empty).

    `publish` may be called from any thread.
    """

    def __init__(self, node: Node, prefix: str, topic: str = "detections") -> None:
        self._node = node
        self._publishers = Publishers(node)
        self._detections = self._publishers.open(Detection2DArray, f"{prefix}{topic}")
        self._labels = self._publishers.open(
            LabelInfo, f"{prefix}label_info", qos=LATCHED, overridable=None
        )
        self._image = self._publishers.open(Image, f"{prefix}{topic}/image")
        # Under the resolved name, so that remapping the image remaps its JPEG.
        self._jpeg = self._publishers.open(CompressedImage, self._image.topic_name + COMPRESSED)

    def publish(self, result: Result, header: Any) -> None:
        """Publish a result with `header` unchanged; draw images only for subscribers."""
        message = detection_array(header, result.detections, result.classifications)
        self._detections.publish(message)
        to_raw, to_jpeg = (p.get_subscription_count() for p in (self._image, self._jpeg))
        if not to_raw and not to_jpeg:
            return
        image = annotated(result)
        if to_raw:
            self._image.publish(image_message(image, header))
        if to_jpeg:
            self._jpeg.publish(compressed_message(image, header))

    def announce(self, labels: Sequence[str], threshold: float) -> None:
        """Publish the names of the detector's classes, for later subscribers too."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._labels.publish(label_info(header, labels, threshold))

    def close(self) -> None:
        """Remove the topics."""
        self._publishers.close()
