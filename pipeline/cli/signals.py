"""SIGINT and SIGTERM: the first one ends the run properly, a second one the process at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.0  # how long anything may hold up the end; a reader of our pipe may never read on


class Interrupted(BaseException):
    """A signal asked for an end; as with KeyboardInterrupt, handlers of errors let it pass."""


def is_interruption(error: BaseException | None) -> bool:
    """Whether a signal asked for an end, also where it hit a library that was being loaded.

    C++ modules make an ImportError of whatever is raised while they set themselves up.
    """
    while isinstance(error, ImportError):
        error = error.__cause__
    return isinstance(error, (Interrupted, KeyboardInterrupt))


class StopSignals:
    """While entered, a first signal calls `stop`, or leaves the block where it is not set yet.

    Once `stop` is set, whoever is in the middle of writing is left to finish for `PATIENCE_S`.
    Handlers take no locks, because the thread that they interrupt may hold any.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_patient = False

    def __enter__(self) -> StopSignals:
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._handle)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.be_patient()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return is_interruption(error)

    def be_patient(self) -> None:
        """From now on nothing is broken off: threads are being ended and files closed.

        A first signal has nothing left to ask for then; a second one still ends the process.
        """
        self._is_patient = True  # first: an alarm that has gone off may not have been handled yet
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for stopping in STOPPING:
            signal.signal(stopping, signal.SIG_DFL)
        if self._is_patient:
            return
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        if self.stop is None:
            raise Interrupted  # which is lost where it hits a destructor: the alarm raises it again
        self.stop()

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        if not self._is_patient:
            raise Interrupted
