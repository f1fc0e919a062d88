"""Receives SIGINT, SIGTERM and SIGHUP in a pipe, so that a thread can wait for them.

Python runs signal handlers on the main thread only, between two of its steps: one that waits in a
call may notice a signal late or never. The pipe is written to within the signal itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal

from pipeline.errors import RunError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        self._arrivals = select.poll()
        self._arrivals.register(self._reader, select.POLLIN)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the next signal, or one since the creation.

        Returns its number, 0 if `wake` was called, or None if nothing came within `timeout_s`.
        """
        if timeout_s is not None and not self._arrivals.poll(timeout_s * 1000):
            return None
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


def caught_signals() -> list[signal.Signals]:
    """The signals that stop this process: all but those that it was started to ignore.

    `nohup` has SIGHUP ignored, and a script SIGINT for what it runs in the background.
    """
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def catch_once(number: signal.Signals) -> None:
    """Have the kernel restore the default action of a signal with a handler once it has come.

    A Python handler runs between two steps of the main thread. While that is inside a library, only
    the default action makes a second signal end the process. Needs the GNU C library; with another
    one nothing changes.
    """
    try:
        install = ctypes.CDLL(None).sysv_signal
    except (AttributeError, OSError):
        return
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    handler = install(number, None)  # the default action
    install(number, handler)
