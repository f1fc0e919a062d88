"""Images in, detections out."""

from __future__ import annotations

from nodes.engine_node import EngineNode
from nodes.process import run


class DetectorNode(EngineNode):
    """Finds the objects in every image of `image_raw`; publishes them on `detections`."""

    def __init__(self) -> None:
        super().__init__("detector_node")


def main() -> None:
    """Run the node until it is told to end."""
    run(DetectorNode)


if __name__ == "__main__":
    main()
