"""Results out: drawings, a window, video files, lines of JSON, figures, progress."""

from pipeline.output.output import Output, Stop

__all__ = ["Output", "Stop"]
