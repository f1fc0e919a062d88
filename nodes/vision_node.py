"""The node that runs everything in one process: capture or topics, detection, classification."""

from __future__ import annotations

from nodes.engine_node import EngineNode
from nodes.parameters import (
    CAMERAS,
    LOOP,
    MAX_DETECTIONS,
    MAX_RATE,
    PUBLICATION,
    SUBSCRIPTION,
)
from nodes.process import run
from pipeline.errors import ConfigError


class VisionNode(EngineNode):
    """Captures or subscribes, detects and classifies; several cameras share one model fairly."""

    def __init__(self) -> None:
        table = (MAX_DETECTIONS, MAX_RATE, LOOP, CAMERAS, *SUBSCRIPTION, *PUBLICATION)
        super().__init__("vision_node", table)
        names = self.cameras or ()  # rclpy gives None for []
        if not names or len(set(names)) < len(names) or ("" in names and len(names) > 1):
            raise ConfigError(
                f"cameras must be different names that are not empty, but got {list(names)}"
            )


def main() -> None:
    """Run the node until a signal ends it."""
    run(VisionNode)


if __name__ == "__main__":
    main()
