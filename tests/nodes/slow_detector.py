"""Runs a node with a slow detector, as on a small board; for the tests."""

from __future__ import annotations

import os
import sys
import time

from nodes import detector_node, vision_node
from pipeline.inference.detector import Detector

fast = Detector.infer


def slow(self, prepared):
    time.sleep(float(os.environ["DETECTION_S"]))
    return fast(self, prepared)


Detector.infer = slow

if __name__ == "__main__":
    sys.exit({"detector": detector_node, "vision": vision_node}[os.environ["NODE"]].main())
