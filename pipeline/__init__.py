"""Real-time video pipeline: capture, detection and classification on a small CPU.

The public names are loaded when they are first asked for, so that a command which needs none of
them (`vision --help`) starts at once.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine import Pipeline
    from pipeline.errors import InputError, RunError, VisionError
    from pipeline.inference.classifier import Classifier
    from pipeline.inference.detector import Detector
    from pipeline.inference.session import Runtime
    from pipeline.output.drawing import draw
    from pipeline.source import Source
    from pipeline.sources import open_source
    from pipeline.step import Step
    from pipeline.types import Classifications, Detections, Frame, Header, Result

# ONNX Runtime reads it when it is first loaded. A robot's software reports to nobody unasked, and
# leaves no files in a home that may be read-only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Classifications": "pipeline.types",
    "Classifier": "pipeline.inference.classifier",
    "Detections": "pipeline.types",
    "Detector": "pipeline.inference.detector",
    "Frame": "pipeline.types",
    "Header": "pipeline.types",
    "InputError": "pipeline.errors",
    "Pipeline": "pipeline.engine",
    "Result": "pipeline.types",
    "RunError": "pipeline.errors",
    "Runtime": "pipeline.inference.session",
    "Source": "pipeline.source",
    "Step": "pipeline.step",
    "VisionError": "pipeline.errors",
    "draw": "pipeline.output.drawing",
    "open_source": "pipeline.sources",
}

__version__ = "0.1.0"
__all__ = [
    "Classifications",
    "Classifier",
    "Detections",
    "Detector",
    "Frame",
    "Header",
    "InputError",
    "Pipeline",
    "Result",
    "RunError",
    "Runtime",
    "Source",
    "Step",
    "VisionError",
    "draw",
    "open_source",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
