"""Frames in: cameras, video files and streams, pictures, and the demo scene."""

from pipeline.capture.open import FORMS, open_source

__all__ = ["FORMS", "open_source"]
