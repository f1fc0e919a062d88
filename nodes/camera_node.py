"""Any source of frames as image topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from nodes.camera_info import read_camera_info
from nodes.capture import CAPTURE, capture_header, open_capture
from nodes.detection_messages import stamp_ns
from nodes.diagnostics import Activity, Diagnostics
from nodes.frames import OriginHeader
from nodes.image_messages import JPEG_QUALITY, compressed_message, image_message
from nodes.image_subscription import COMPRESSED
from nodes.lifecycle import ManagedNode
from nodes.parameters import DIAGNOSTICS, MAX_RATE, Parameter, Value
from nodes.playback import Playback
from nodes.process import run
from nodes.result_publisher import NEWEST, OVERRIDABLE
from nodes.sources import CaptureSource, Pace
from pipeline.errors import ConfigError
from pipeline.feed import Feed
from pipeline.types import Frame, Result

IMAGES = "image_raw"
INFO = "camera_info"

TABLE = (
    *CAPTURE,
    MAX_RATE,
    Parameter(
        "camera_info_url",
        "",
        "calibration file to publish as camera_info: a path, file:// or package://; empty for none",
    ),
    Parameter(
        "jpeg_quality",
        JPEG_QUALITY,
        "of image_raw/compressed",
        1,
        100,
        changeable=True,
    ),
    *DIAGNOSTICS,
)


class CameraNode(ManagedNode):
    """Publishes the frames of a source on `image_raw`, its JPEG and `camera_info`.

    A thread of its own opens, reads and publishes, so that a driver that hangs holds up nothing
    else. What nobody subscribes to is not made.
    """

    def __init__(self) -> None:
        super().__init__("camera_node", TABLE)
        self.parameters.on_change = self._change
        self._pace = Pace(self.parameters["max_rate"])
        self._diagnostics = Diagnostics(self, self.parameters)
        self._activity = Activity(IMAGES)
        self._topics: dict[str, Any] = {}
        self._info: CameraInfo | None = None
        self._playback: Playback | None = None

    # --- the states -------------------------------------------------------------------------

    def configure(self) -> None:
        """Read the calibration and create the topics."""
        if not self.parameters["source"]:
            raise ConfigError(
                "parameter source is empty; expected a camera number, a file, rtsp://... or scene:"
            )
        url = self.parameters["camera_info_url"]
        self._info = read_camera_info(url) if url else None
        raw = self._publisher(Image, IMAGES)
        self._topics = {"raw": raw}
        # Under the resolved name: remapped images take their JPEG along.
        self._topics["jpeg"] = self._publisher(CompressedImage, raw.topic_name + COMPRESSED)
        if self._info is not None:
            self._topics["info"] = self._publisher(CameraInfo, INFO)

    def cleanup(self) -> None:
        """Take the topics away."""
        for publisher in self._topics.values():
            self.destroy_publisher(publisher)
        self._topics.clear()

    def activate(self) -> None:
        """Begin to open and read the source."""
        self._activity = Activity(IMAGES)
        self._playback = Playback(
            self._open,
            Feed,
            self._publish,
            self._over,
            self.get_logger(),
            paused=not self.enabled,
            retry=self.parameters["retry"],
            loop=self.parameters["loop"],
        )
        self._playback.start()

    def deactivate(self) -> None:
        """Close the source and end its thread."""
        playback, self._playback = self._playback, None
        if playback is not None and not playback.close():
            self.get_logger().warning("a thread did not end in time and is left behind")
        self._activity.settle()

    def pause(self, paused: bool) -> None:
        """Pass live frames over, hold files."""
        if self._playback is not None:
            self._playback.pause(paused)

    def housekeep(self) -> None:
        """Publish diagnostics."""
        self._diagnostics.publish(
            [self._activity],
            {"source": self.parameters["source"]},
            state=self.state,
            problem=self.problem,
            enabled=self.enabled,
        )

    # --- on the playback's thread -----------------------------------------------------------

    def _open(self) -> CaptureSource:
        """The source, counted and slowed down; waits for it."""
        source = open_capture(self.parameters)
        return CaptureSource(source, lambda _: self._activity, self._pace, self._header)

    def _publish(self, result: Result) -> None:
        """Send a frame to whoever subscribes to it."""
        frame = result.header
        if not isinstance(frame, OriginHeader):
            raise TypeError(f"expected a header with its origin, but got {type(frame).__name__}")
        header, count = frame.origin
        raw, jpeg, info = (self._topics.get(name) for name in ("raw", "jpeg", "info"))
        if info is not None and info.get_subscription_count():
            self._publish_info(info, header, frame.width, frame.height)
        if raw.get_subscription_count():
            raw.publish(image_message(result.image, header))
        if jpeg.get_subscription_count():
            jpeg.publish(compressed_message(result.image, header, self.parameters["jpeg_quality"]))
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(header)
        self._activity.record(age_ns / 1e9, result.stage_ns)
        self._activity.dropped = count - self._activity.published

    def _over(self, playback: Playback, problem: str) -> None:
        if self._playback is playback and self.executor is not None:
            self.executor.create_task(self.fail, problem)

    def _publish_info(self, publisher: Any, header: Any, width: int, height: int) -> None:
        assert self._info is not None  # noqa: S101 - there is no publisher without it
        if (self._info.width, self._info.height) != (width, height):
            self.get_logger().warning(
                f"the calibration is for {self._info.width}x{self._info.height} pixels, but "
                f"images are {width}x{height}: calibrate again, or ask for that size",
                throttle_duration_sec=30.0,
            )
        self._info.header = header
        publisher.publish(self._info)

    def _header(self, frame: Frame) -> Any:
        return capture_header(frame, self.get_clock(), self.parameters)

    def _publisher(self, kind: type[Any], topic: str) -> Any:
        return self.create_publisher(kind, topic, NEWEST, qos_overriding_options=OVERRIDABLE)

    def _change(self, changed: Mapping[str, Value]) -> None:
        if "max_rate" in changed:
            self._pace.max_rate = changed["max_rate"]


def main() -> None:
    """Run the node until it is told to end."""
    run(CameraNode)


if __name__ == "__main__":
    main()
