"""Detector families: from the outputs of a network to objects.

A family is one file: its part of a model's spec, the shapes of its outputs, and a compiled decoder
that ends in the suppression of `pipeline.inference.nms`.
"""

from __future__ import annotations

from pipeline.inference.heads import darknet

Head = darknet.DarknetHead
"""The table of families: `darknet.DarknetHead | yolox.YoloxHead | ...`, told apart by `family`."""
