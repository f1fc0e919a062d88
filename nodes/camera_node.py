"""Any source of frames as image topics."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from nodes.camera_info import read_camera_info
from nodes.capture import CAPTURE, open_capture
from nodes.detection_messages import header_message
from nodes.diagnostics import Activity, Diagnostics
from nodes.image_messages import JPEG_QUALITY, compressed_message, image_message
from nodes.image_subscription import COMPRESSED
from nodes.lifecycle import ManagedNode
from nodes.parameters import DIAGNOSTICS, MAX_RATE, Parameter, Value
from nodes.process import run
from nodes.result_publisher import NEWEST, OVERRIDABLE
from nodes.sources import CaptureSource, Pace
from pipeline.errors import ConfigError, SourceError, VisionError
from pipeline.feed import Feed
from pipeline.types import Result

IMAGES = "image_raw"
INFO = "camera_info"
JOIN_S = 1.0  # how long the reader may take to end; one stuck in a driver is left behind
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 5.0

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
        self._playback: _Playback | None = None

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
        self._playback = _Playback(self)
        self._playback.start()

    def deactivate(self) -> None:
        """Close the source and end its thread."""
        playback, self._playback = self._playback, None
        if playback is not None:
            playback.close()
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

    # --- called by the playback's thread ----------------------------------------------------

    def open(self) -> CaptureSource:
        """The source, counted and slowed down; waits for it."""
        return CaptureSource(open_capture(self.parameters), lambda _: self._activity, self._pace)

    def publish(self, result: Result) -> None:
        """Send a frame to whoever subscribes to it."""
        frame = result.header
        frame_id = self.parameters["frame_id"] or frame.camera
        header = header_message(self._stamp(frame.stamp_ns), frame_id)
        raw, jpeg, info = (self._topics.get(name) for name in ("raw", "jpeg", "info"))
        if info is not None and info.get_subscription_count():
            self._publish_info(info, header, frame.width, frame.height)
        if raw.get_subscription_count():
            raw.publish(image_message(result.image, header))
        if jpeg.get_subscription_count():
            jpeg.publish(compressed_message(result.image, header, self.parameters["jpeg_quality"]))
        self._activity.record((time.time_ns() - frame.stamp_ns) / 1e9, result.stage_ns)
        self._activity.dropped = frame.origin.count - self._activity.published

    def over(self, playback: _Playback, problem: str) -> None:
        """The playback has ended by itself."""
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

    def _stamp(self, captured_ns: int) -> int:
        """The capture time by the clock that the node goes by, which may be a simulated one."""
        if not self.get_clock().ros_time_is_active:
            return captured_ns
        return max(0, self.get_clock().now().nanoseconds - (time.time_ns() - captured_ns))

    def _publisher(self, kind: type[Any], topic: str) -> Any:
        return self.create_publisher(kind, topic, NEWEST, qos_overriding_options=OVERRIDABLE)

    def _change(self, changed: Mapping[str, Value]) -> None:
        if "max_rate" in changed:
            self._pace.max_rate = changed["max_rate"]


class _Playback(threading.Thread):
    """Opens the node's source, and again where the parameters say so, and publishes its frames."""

    def __init__(self, node: CameraNode) -> None:
        super().__init__(name="playback", daemon=True)
        self._node = node
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._source: CaptureSource | None = None
        self._feed: Feed | None = None

    def run(self) -> None:
        """Until the source has ended, has broken, or is closed."""
        problem = "the source has ended"
        try:
            while not self._closing.is_set():
                self._play(self._opened())
                if not self._node.parameters["loop"]:
                    break
        except VisionError as error:
            problem = str(error)
        except Exception as error:  # nobody else could tell why nothing comes any more
            problem = f"{type(error).__name__}: {error}"
            self._node.get_logger().error(traceback.format_exc())
        if not self._closing.is_set():
            self._node.over(self, problem)

    def pause(self, paused: bool) -> None:
        """Of the source that plays, and of those to come."""
        with self._lock:
            if self._source is not None:
                self._source.paused = paused

    def close(self) -> None:
        """End, from another thread."""
        with self._lock:
            self._closing.set()
            if self._feed is not None:
                self._feed.stop()
            if self._source is not None:
                self._source.close()
        self.join(JOIN_S)

    def _opened(self) -> CaptureSource:
        wait_s = FIRST_RETRY_S
        while True:
            try:
                return self._node.open()
            except SourceError as error:
                if not self._node.parameters["retry"] or self._closing.is_set():
                    raise
                self._node.get_logger().warning(f"{error}; trying again in {wait_s:g} s")
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, LAST_RETRY_S)

    def _play(self, source: CaptureSource) -> None:
        with Feed(source) as feed:
            with self._lock:
                if self._closing.is_set():
                    return
                self._source, self._feed = source, feed
                source.paused = not self._node.enabled
            for result in feed:
                self._node.publish(result)


def main() -> None:
    """Run the node until it is told to end."""
    run(CameraNode)


if __name__ == "__main__":
    main()
