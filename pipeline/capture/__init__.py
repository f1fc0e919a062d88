"""Frames in: cameras, video files and streams, pictures, and the demo scene."""

from pipeline.capture.open import FORMS, open_source
from pipeline.capture.source import Source

__all__ = ["FORMS", "Source", "open_source"]
