"""Real-time video pipeline: capture, detection and classification on a small CPU.

Public names are imported on first use, so that a command that needs none of them (`vision --help`)
starts fast.
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
    from pipeline.inference.tracking.tracker import Tracker
    from pipeline.output.drawing import draw
    from pipeline.output.json_lines import JsonLines
    from pipeline.output.output import Output, Stop
    from pipeline.output.video_file import VideoFile
    from pipeline.output.window import Window
    from pipeline.outputs import Outputs, deliver
    from pipeline.publishing import Publishing
    from pipeline.source import Source
    from pipeline.sources import open_source
    from pipeline.step import Step
    from pipeline.types import Classifications, Detections, Frame, Header, Result, Tracks

# ONNX Runtime reads it when loaded: no telemetry, and no files in a home that may be read-only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Classifications": "pipeline.types",
    "Classifier": "pipeline.inference.classifier",
    "Detections": "pipeline.types",
    "Detector": "pipeline.inference.detector",
    "Frame": "pipeline.types",
    "Header": "pipeline.types",
    "InputError": "pipeline.errors",
    "JsonLines": "pipeline.output.json_lines",
    "Output": "pipeline.output.output",
    "Outputs": "pipeline.outputs",
    "Pipeline": "pipeline.engine",
    "Publishing": "pipeline.publishing",
    "Result": "pipeline.types",
    "RunError": "pipeline.errors",
    "Runtime": "pipeline.inference.session",
    "Source": "pipeline.source",
    "Step": "pipeline.step",
    "Stop": "pipeline.output.output",
    "Tracker": "pipeline.inference.tracking.tracker",
    "Tracks": "pipeline.types",
    "VideoFile": "pipeline.output.video_file",
    "VisionError": "pipeline.errors",
    "Window": "pipeline.output.window",
    "deliver": "pipeline.outputs",
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
    "JsonLines",
    "Output",
    "Outputs",
    "Pipeline",
    "Publishing",
    "Result",
    "RunError",
    "Runtime",
    "Source",
    "Step",
    "Stop",
    "Tracker",
    "Tracks",
    "VideoFile",
    "VisionError",
    "Window",
    "deliver",
    "draw",
    "open_source",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
