"""Receives SIGINT and SIGTERM in a pipe, so that a thread can wait for them.

Python runs signal handlers on the main thread only, between two of its steps: one that waits in a
call may notice a signal late or never. The pipe is written to within the signal itself.
"""

from __future__ import annotations

import contextlib
import os
import signal

from pipeline.errors import RunError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalPipe:
    """A pipe that gets the number of each signal that has a Python handler.

    Created and closed on the main thread. Raises `RunError` if there are too many open files.
    """

    def __init__(self) -> None:
        try:
            self._reader, self._writer = os.pipe()
        except OSError as error:
            raise RunError(
                f"signals: {error.strerror}; raise the limit of open files (ulimit -n)"
            ) from error
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wait(self) -> int:
        """Wait for the next signal, or one since the creation; 0 if `wake` was called."""
        return os.read(self._reader, 1)[0]

    def wake(self) -> None:
        """End a call of `wait`, from any thread."""
        with contextlib.suppress(BlockingIOError):  # full, so there is something to read
            os.write(self._writer, bytes(1))

    def close(self) -> None:
        """Receive no more signals; no thread may wait any more."""
        signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        os.close(self._reader)
        os.close(self._writer)
