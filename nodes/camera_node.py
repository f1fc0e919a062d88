"""The node that publishes the frames of any source as image topics."""

from __future__ import annotations

from nodes.engine_node import EngineNode
from nodes.parameters import LOOP, MAX_RATE, PUBLICATION
from nodes.process import run
from pipeline.errors import ConfigError
from pipeline.text.display import shown_source


class CameraNode(EngineNode):
    """Publishes frames on `image_raw`, `image_raw/compressed` and `camera_info`.

    Only topics with subscribers are published.
    """

    def __init__(self) -> None:
        super().__init__("camera_node", (MAX_RATE, LOOP, *PUBLICATION))

    def configure(self) -> None:
        """Check the source, read the calibration and create the publishers."""
        source = self.parameters["source"]
        if not source:
            raise ConfigError(
                "parameter source is empty; expected a camera number, a file, rtsp://... or scene:"
            )
        self.info = {"source": shown_source(source)}
        super().configure()


def main() -> None:
    """Run the node until a signal ends it."""
    run(CameraNode)


if __name__ == "__main__":
    main()
