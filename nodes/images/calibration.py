"""Publishes a camera's calibration beside its images, and takes another one from a calibrator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from sensor_msgs.srv import SetCameraInfo

from nodes.messages.camera_info import local_path, read_camera_info, write_camera_info
from nodes.throttle import WARN_AGAIN_S
from nodes.topics import open_publisher
from pipeline.errors import ConfigError
from pipeline.types import Image

INFO, SET_INFO = "camera_info", "set_camera_info"


class Calibration:
    """`camera_info` and the service `set_camera_info`, below `prefix` (`front/` or empty).

    Without a calibration, messages hold the size and zeros, as sensor_msgs/CameraInfo says. `url`
    names the file that is read, and that the service writes; empty for none, and then a new
    calibration holds until the node ends. Raises `ConfigError` if the file cannot be used.
    """

    def __init__(self, node: Node, url: str, prefix: str) -> None:
        self._node = node
        self._path: Path | None = local_path(url) if url else None
        self._info = read_camera_info(url) if url else None
        self._publisher = open_publisher(node, CameraInfo, prefix + INFO)
        self._service = node.create_service(SetCameraInfo, prefix + SET_INFO, self._set)

    def has_subscribers(self) -> bool:
        """Whether anybody wants the calibration."""
        return bool(self._publisher.get_subscription_count())

    def publish(self, header: Any, image: Image) -> None:
        """Publish the calibration with the header of an (H, W, 3) image."""
        height, width = image.shape[:2]
        info = self._info
        if info is None:
            info = CameraInfo(width=width, height=height)
        elif (info.width, info.height) != (width, height):
            self._node.get_logger().warning(
                f"the calibration is for {info.width}x{info.height} pixels, but images are "
                f"{width}x{height}: calibrate again, or set width and height",
                throttle_duration_sec=WARN_AGAIN_S,
            )
        info.header = header
        self._publisher.publish(info)

    def close(self) -> None:
        """Remove the topic and the service."""
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_service(self._service)

    def _set(
        self, request: SetCameraInfo.Request, response: SetCameraInfo.Response
    ) -> SetCameraInfo.Response:
        self._info = request.camera_info
        response.success = True
        if self._path is None:
            response.status_message = "set, but not stored: the parameter camera_info_url is empty"
        else:
            try:
                write_camera_info(self._path, request.camera_info)
            except ConfigError as error:
                response.success, response.status_message = False, str(error)
            else:
                response.status_message = f"stored in {self._path}"
        self._node.get_logger().info(f"calibration: {response.status_message}")
        return response
