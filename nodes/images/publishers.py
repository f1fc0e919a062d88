"""Publishes images and calibration, and the results of one camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from nodes.images.calibration import Calibration
from nodes.images.image_messages import compressed_message, image_message
from nodes.images.image_subscription import COMPRESSED
from nodes.messages.detection_messages import detection_array, label_info
from nodes.parameters import Parameters
from nodes.topics import Publishers, ResultTopic
from pipeline.errors import ConfigError
from pipeline.output.drawing import annotated
from pipeline.types import Image, Result

IMAGES = "image_raw"


class ImagePublisher:
    """`image_raw`, its JPEG and the calibration on `camera_info`.

    `prefix` stands before the topics (`front/` or empty). Only topics with subscribers are
    published. `publish` may be called from any thread. Raises `ConfigError` if the calibration
    cannot be used.
    """

    def __init__(self, node: Node, parameters: Parameters, prefix: str = "") -> None:
        self._parameters = parameters
        self._publishers = Publishers(node)
        self._raw = self._publishers.open(ImageMessage, prefix + IMAGES)
        # Under the resolved name, so that remapping the images remaps their JPEG.
        self._jpeg = self._publishers.open(CompressedImage, self._raw.topic_name + COMPRESSED)
        try:
            self._calibration = Calibration(node, parameters["camera_info_url"], prefix)
        except ConfigError:
            self._publishers.close()
            raise

    @property
    def topic(self) -> str:
        """The full name of the topic of raw images."""
        return str(self._raw.topic_name)

    def has_subscribers(self) -> bool:
        """Whether any of the topics has a subscriber."""
        images = any(topic.get_subscription_count() for topic in (self._raw, self._jpeg))
        return images or self._calibration.has_subscribers()

    def publish(self, image: Image, header: Any) -> None:
        """Publish an (H, W, 3) uint8 BGR image with `header` unchanged."""
        if self._calibration.has_subscribers():
            self._calibration.publish(header, image)
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(image, header))
        if self._jpeg.get_subscription_count():
            quality = self._parameters["jpeg_quality"]
            self._jpeg.publish(compressed_message(image, header, quality))

    def close(self) -> None:
        """Remove the topics."""
        self._publishers.close()
        self._calibration.close()


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
        ImageMessage,
        lambda result, header: image_message(annotated(result), header),
        draws=True,
    ),
    ResultTopic(
        f"detections/image{COMPRESSED}",
        CompressedImage,
        lambda result, header: compressed_message(annotated(result), header),
        draws=True,
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
        self._topics: dict[str, Any] = {}
        for topic in TOPICS:
            image = self._topics.get(topic.name.removesuffix(COMPRESSED))
            # Under the resolved name, so that remapping an image remaps its JPEG.
            name = image.topic_name + COMPRESSED if image else f"{prefix}{topic.name}"
            self._topics[topic.name] = self._publishers.open(topic.kind, name)
        self._labels = self._publishers.open(
            LabelInfo, f"{prefix}label_info", qos=LATCHED, overridable=None
        )

    @property
    def topic(self) -> str:
        """The full name of the topic of detections."""
        return str(self._topics["detections"].topic_name)

    def publish(self, result: Result, header: Any) -> None:
        """Publish what is small: every topic but the images, with `header` unchanged."""
        self._publish([topic for topic in TOPICS if not topic.draws], result, header)

    def draws(self) -> bool:
        """Whether a drawn image has a subscriber."""
        topics = (self._topics[topic.name] for topic in TOPICS if topic.draws)
        return any(publisher.get_subscription_count() for publisher in topics)

    def publish_drawn(self, result: Result, header: Any) -> None:
        """Publish the drawn images that have subscribers, with `header` unchanged."""
        self._publish([topic for topic in TOPICS if topic.draws], result, header)

    def _publish(self, topics: Sequence[ResultTopic], result: Result, header: Any) -> None:
        for topic in topics:
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
