"""Publishes captured images raw and as JPEG, and the camera's calibration."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from nodes.images.image_messages import compressed_message, image_message
from nodes.images.image_subscription import COMPRESSED
from nodes.messages.camera_info import read_camera_info
from nodes.parameters.declaration import Parameters
from nodes.parameters.topics import Publishers
from pipeline.types import Image

IMAGES = "image_raw"
INFO = "camera_info"
WARN_AGAIN_S = 30.0


class ImagePublisher:
    """`image_raw`, its JPEG and, if the parameters name a calibration, `camera_info`.

    `prefix` stands before the topics (`front/` or empty). Only topics with subscribers are
    published. `publish` may be called from any thread. Raises `ConfigError` if the calibration
    cannot be used.
    """

    def __init__(self, node: Node, parameters: Parameters, prefix: str = "") -> None:
        self._node = node
        self._parameters = parameters
        url = parameters["camera_info_url"]
        self._calibration = read_camera_info(url) if url else None
        self._publishers = Publishers(node)
        self._raw = self._publishers.open(ImageMessage, prefix + IMAGES)
        # Under the resolved name, so that remapping the images remaps their JPEG.
        self._jpeg = self._publishers.open(CompressedImage, self._raw.topic_name + COMPRESSED)
        self._info = self._publishers.open(CameraInfo, prefix + INFO) if url else None

    def publish(self, image: Image, header: Any) -> None:
        """Publish an (H, W, 3) uint8 BGR image with `header` unchanged."""
        if self._info is not None and self._info.get_subscription_count():
            self._publish_info(header, image)
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(image, header))
        if self._jpeg.get_subscription_count():
            quality = self._parameters["jpeg_quality"]
            self._jpeg.publish(compressed_message(image, header, quality))

    def close(self) -> None:
        """Remove the topics."""
        self._publishers.close()

    def _publish_info(self, header: Any, image: Image) -> None:
        info, (height, width) = self._calibration, image.shape[:2]
        if info is None or self._info is None:
            return
        if (info.width, info.height) != (width, height):
            self._node.get_logger().warning(
                f"the calibration is for {info.width}x{info.height} pixels, but images are "
                f"{width}x{height}: calibrate again, or set width and height",
                throttle_duration_sec=WARN_AGAIN_S,
            )
        info.header = header
        self._info.publish(info)
