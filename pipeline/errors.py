"""The errors that users of the pipeline meet.

Two families, after what the caller can do about it. `InputError`: something given was wrong; the
command line prints the message on one line and exits with code 2. `RunError`: something broke while
running; exit code 1. A message names the subject, what was expected, what came and what to do.
"""

from __future__ import annotations

from pipeline.text.display import printable


class VisionError(Exception):
    """Base of every error that the pipeline raises on purpose."""


class InputError(VisionError):
    """Something the caller gave (an argument, a file, a setting) cannot be used."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of its range."""


class SourceError(InputError):
    """A source of frames cannot be opened, or is not what it claims to be."""


class ModelError(InputError):
    """A model file is missing, damaged, or not what its metadata says."""


class DependencyError(InputError):
    """An optional dependency is needed and not installed; the message says what to install."""


class RunError(VisionError):
    """Something failed while the pipeline was running."""


class CaptureError(RunError):
    """An opened source broke: the camera went away, the stream ended in an error."""


class FrameError(RunError):
    """One frame could not be read or decoded; the source can go on with the next one."""


class OutputError(RunError):
    """A result could not be written: disk full, no display, the file was taken away."""


class StageError(RunError):
    """A stage failed; `__cause__` is the exception that it raised."""


def one_line(error: object) -> str:
    """The message of an error on a single line, with control characters as escapes."""
    return printable(" ".join(str(error).split()))
