"""Publishes captured images: raw, as JPEG, and the camera's calibration, to whoever subscribes."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from nodes.images.image_messages import JPEG_QUALITY, compressed_message, image_message
from nodes.images.image_subscription import COMPRESSED
from nodes.messages.camera_info import read_camera_info
from nodes.parameters.declaration import Parameter, Parameters
from nodes.parameters.topics import Publishers
from pipeline.types import Image

IMAGES = "image_raw"
INFO = "camera_info"
WARN_AGAIN_S = 30.0

PUBLICATION = (
    Parameter(
        "camera_info_url",
        "",
        "calibration file to publish as camera_info: a path, file:// or package://; empty for none",
    ),
    Parameter("jpeg_quality", JPEG_QUALITY, "of image_raw/compressed", 1, 100, changeable=True),
)


class ImagePublisher:
    """`image_raw`, its JPEG and, where the parameters name a calibration, `camera_info`.

    `prefix` stands before the topics (`front/`, or nothing). What nobody subscribes to is not made.
    `publish` may be called from another thread than the executor's. Raises `ConfigError` where the
    calibration cannot be used.
    """

    def __init__(self, node: Node, parameters: Parameters, prefix: str = "") -> None:
        self._node = node
        self._parameters = parameters
        url = parameters["camera_info_url"]
        self._calibration = read_camera_info(url) if url else None
        self._publishers = Publishers(node)
        self._raw = self._publishers.open(ImageMessage, prefix + IMAGES)
        # Under the resolved name: remapped images take their JPEG along.
        self._jpeg = self._publishers.open(CompressedImage, self._raw.topic_name + COMPRESSED)
        self._info = self._publishers.open(CameraInfo, prefix + INFO) if url else None

    def publish(self, image: Image, header: Any) -> None:
        """Send an (H, W, 3) uint8 BGR picture with `header` as it is."""
        if self._info is not None and self._info.get_subscription_count():
            self._publish_info(header, image)
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(image, header))
        if self._jpeg.get_subscription_count():
            quality = self._parameters["jpeg_quality"]
            self._jpeg.publish(compressed_message(image, header, quality))

    def close(self) -> None:
        """Take the topics away."""
        self._publishers.close()

    def _publish_info(self, header: Any, image: Image) -> None:
        info, (height, width) = self._calibration, image.shape[:2]
        if info is None or self._info is None:
            return
        if (info.width, info.height) != (width, height):
            self._node.get_logger().warning(
                f"the calibration is for {info.width}x{info.height} pixels, but images are "
                f"{width}x{height}: calibrate again, or ask for that size",
                throttle_duration_sec=WARN_AGAIN_S,
            )
        info.header = header
        self._info.publish(info)
