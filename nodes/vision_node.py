"""Everything in one process: a source or topics in, detections with finer names out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodes.capture import CAPTURE, capture_header, open_capture
from nodes.engine_node import EngineNode
from nodes.images.frame_sources import CaptureSource
from nodes.images.image_publisher import PUBLICATION, ImagePublisher
from nodes.messages.headers import origin_of
from nodes.parameters.declaration import CLASSIFICATION, NO_CLASSIFIER, Parameter
from nodes.process import run
from pipeline.errors import ConfigError
from pipeline.inference.classifier import Classifier
from pipeline.types import Frame, Result

CAMERAS = Parameter(
    "cameras",
    [""],
    "names of the cameras, each with its topics under NAME/; [''] for one without a prefix",
)


class VisionNode(EngineNode):
    """Captures or subscribes, detects and classifies; several cameras share one session fairly."""

    def __init__(self) -> None:
        super().__init__("vision_node", (*CLASSIFICATION, *CAPTURE, *PUBLICATION, CAMERAS))
        self._images: dict[str, ImagePublisher] = {}
        names = self.cameras or ()  # rclpy gives None for []
        if not names or len(set(names)) < len(names) or ("" in names and len(names) > 1):
            raise ConfigError(
                f"cameras must be different names that are not empty, but got {list(names)}"
            )

    @property
    def cameras(self) -> Sequence[str]:
        """The parameter of that name."""
        names: list[str] = self.parameters["cameras"]
        return names

    @property
    def capture(self) -> Callable[[], CaptureSource] | None:
        """What the parameter source names; None where it is empty."""
        return self._open_capture if self.parameters["source"] else None

    def configure(self) -> None:
        """Also create the topics of captured images."""
        super().configure()
        if self.capture is not None:
            for camera in self.cameras:
                prefix = f"{camera}/" if camera else ""
                self._images[camera] = ImagePublisher(self, self.parameters, prefix)

    def cleanup(self) -> None:
        """Also take these away."""
        super().cleanup()
        for images in self._images.values():
            images.close()
        self._images.clear()

    def _publish(self, result: Result) -> None:
        """Send the captured image too, in front of what was found in it."""
        if self._images and result.image is not None:
            camera = self.camera_of(result.header.camera)
            self._images[camera].publish(result.image, origin_of(result).header)
        super()._publish(result)

    def _open_capture(self) -> CaptureSource:
        return CaptureSource(open_capture(self.parameters), self.activity, self.pace, self._header)

    def open_classifier(self) -> Classifier | None:
        """The classifier that the parameters name."""
        given = self.parameters
        if given["classifier"] == NO_CLASSIFIER:
            return None
        return Classifier(given["classifier"], top=given["top"], threads=given["threads"] or None)

    def _header(self, frame: Frame) -> Any:
        return capture_header(frame, self.get_clock(), self.parameters)


def main() -> None:
    """Run the node until it is told to end."""
    run(VisionNode)


if __name__ == "__main__":
    main()
