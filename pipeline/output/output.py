"""What every consumer of results can do."""

from __future__ import annotations

from typing import Protocol

from pipeline.types import Result


class Stop(Exception):  # noqa: N818 - a wish, not an error
    """Raised by `Output.write` where nobody wants further results.

    The user has closed the window, or the reader of a pipe has gone. The pipeline stops as after
    the last frame, and successfully.
    """


class Output(Protocol):
    """A consumer of results, used by one thread."""

    def write(self, result: Result) -> None:
        """Take one result. Raises `OutputError` where it cannot be written, `Stop` to end."""

    def close(self) -> None:
        """Finish; files are readable afterwards. May be called twice.

        Raises `OutputError` where what was written cannot be finished.
        """
