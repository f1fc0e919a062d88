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
from nodes.parameters.topics import Publishers, ResultTopic
from pipeline.output.drawing import annotated
from pipeline.types import Result

LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


TOPICS: tuple[ResultTopic, ...] = (
    ResultTopic(
        "detections",
        Detection2DArray,
        lambda result, header: detection_array(header, result.detections, result.classifications),
        always=True,
    ),
    ResultTopic(
        "detections/image",
        Image,
        lambda result, header: image_message(annotated(result), header),
    ),
    ResultTopic(
        f"detections/image{COMPRESSED}",
        CompressedImage,
        lambda result, header: compressed_message(annotated(result), header),
    ),
)
"""Every topic with a message for each result."""


class ResultPublisher:
    """The output topics of one camera, under `prefix` (`front/` or empty).

    `publish` may be called from any thread.
    """

    def __init__(self, node: Node, prefix: str) -> None:
        self._node = node
        self._publishers = Publishers(node)
        self._labels = self._publishers.open(
            LabelInfo, f"{prefix}label_info", qos=LATCHED, overridable=None
        )
        self._topics: dict[str, Any] = {}
        for topic in TOPICS:
            image = self._topics.get(topic.name.removesuffix(COMPRESSED))
            # Under the resolved name, so that remapping an image remaps its JPEG.
            name = image.topic_name + COMPRESSED if image else f"{prefix}{topic.name}"
            self._topics[topic.name] = self._publishers.open(topic.kind, name)

    def publish(self, result: Result, header: Any) -> None:
        """Publish a result with `header` unchanged; draw images only for subscribers."""
        for topic in TOPICS:
            publisher = self._topics[topic.name]
            if topic.always or publisher.get_subscription_count():
                publisher.publish(topic.message(result, header))

    def announce(self, labels: Sequence[str], threshold: float) -> None:
        """Publish the names of the detector's classes, for later subscribers too."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._labels.publish(label_info(header, labels, threshold))

    def close(self) -> None:
        """Remove the topics."""
        self._publishers.close()
