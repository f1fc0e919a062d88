"""Any source of frames as image topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodes.capture import CAPTURE, capture_header, open_capture
from nodes.images.frame_sources import CaptureSource, Pace
from nodes.images.image_publisher import IMAGES, PUBLICATION, ImagePublisher
from nodes.lifecycle import ManagedNode
from nodes.messages.detection_messages import stamp_ns
from nodes.messages.diagnostics import Activity, Diagnostics
from nodes.messages.headers import origin_of
from nodes.parameters.declaration import DIAGNOSTICS, MAX_RATE, Value
from nodes.process import run
from nodes.source_runner import Playback
from pipeline.capture.video import check_address
from pipeline.engine import Pipeline
from pipeline.errors import ConfigError
from pipeline.types import Frame, Result

TABLE = (
    *CAPTURE,
    MAX_RATE,
    *PUBLICATION,
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
        self._facts: dict[str, str] = {}
        self._images: ImagePublisher | None = None
        self._playback: Playback | None = None

    # --- the states -------------------------------------------------------------------------

    def configure(self) -> None:
        """Read the calibration and create the topics."""
        source = self.parameters["source"]
        if not source:
            raise ConfigError(
                "parameter source is empty; expected a camera number, a file, rtsp://... or scene:"
            )
        self._facts = {"source": check_address(source)}  # without a password
        self._images = ImagePublisher(self, self.parameters)

    def cleanup(self) -> None:
        """Take the topics away."""
        if self._images is not None:
            self._images.close()
            self._images = None

    def activate(self) -> None:
        """Begin to open and read the source."""
        self._activity = Activity(IMAGES)
        self._playback = Playback(
            self._open,
            Pipeline,
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
            self._facts,
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
        """Publish a frame to its subscribers."""
        header, number = origin_of(result)
        if self._images is not None and result.image is not None:
            self._images.publish(result.image, header)
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(header)
        self._activity.record(age_ns / 1e9, result.stage_ns)
        self._activity.dropped = number - self._activity.published

    def _over(self, playback: Playback, problem: str) -> None:
        if self._playback is playback and self.executor is not None:
            self.executor.create_task(self.fail, problem)

    def _header(self, frame: Frame) -> Any:
        return capture_header(frame, self.get_clock(), self.parameters)

    def _change(self, changed: Mapping[str, Value]) -> None:
        if "max_rate" in changed:
            self._pace.max_rate = changed["max_rate"]


def main() -> None:
    """Run the node until it is told to end."""
    run(CameraNode)


if __name__ == "__main__":
    main()
