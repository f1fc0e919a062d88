"""The node that subscribes to images and publishes detections."""

from __future__ import annotations

from nodes.engine_node import EngineNode
from nodes.parameters import MAX_DETECTIONS, MAX_RATE, SUBSCRIPTION
from nodes.process import run


class DetectorNode(EngineNode):
    """Detects objects in every image of `image_raw`; publishes them on `detections`."""

    def __init__(self) -> None:
        super().__init__("detector_node", (MAX_DETECTIONS, MAX_RATE, *SUBSCRIPTION))


def main() -> None:
    """Run the node until a signal ends it."""
    run(DetectorNode)


if __name__ == "__main__":
    main()
