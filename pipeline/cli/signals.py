"""Makes the first SIGINT or SIGTERM stop a run, and a second one end the process at once.

A node has its main thread wait for signals and works on another one (`nodes.process`). A command
cannot: windows have to be drawn on the main thread, and a write to a pipe that is never read ends
only by an exception, which signals can raise on the main thread alone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pipeline.runtime.signals import STOP_SIGNALS, SignalPipe

PATIENCE_S = 1.0  # how long writing may delay the stop
NUDGE = signal.SIGURG  # is ignored by a process that has no handler for it any more
NUDGE_EVERY_S = 0.1


class Interrupted(BaseException):
    """A signal asked for a stop. Like KeyboardInterrupt, it passes handlers of errors."""


def is_interruption(error: BaseException | None) -> bool:
    """Whether a signal asked for a stop, also while a library was being loaded.

    C++ modules turn whatever is raised while they are loaded into an ImportError.
    """
    while isinstance(error, ImportError):
        error = error.__cause__
    return isinstance(error, (Interrupted, KeyboardInterrupt))


class StopSignals:
    """While entered, the first signal calls `stop`, or leaves the block if that is not set yet.

    Once `stop` is set, only what runs within `interruptible` is interrupted, after `PATIENCE_S`.
    Handlers take no locks, because the thread that they interrupt may hold any.

    A thread waits for signals too, and interrupts a blocking call of the main thread by sending it
    `NUDGE`: to notice a signal, and later to leave a call that should have ended.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_noticed = False
        self._is_interruptible = False
        self._is_closing = False
        self._waited_s = 0.0  # since the signal; nothing is added while the process is suspended
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> StopSignals:
        self._main = threading.get_ident()
        self._pipe = SignalPipe()
        self._before[NUDGE] = signal.signal(NUDGE, self._nudged)
        self._thread.start()
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, _: object, error: BaseException | None, *traceback: object) -> bool:
        self.begin_closing()
        self._has_ended.set()
        self._pipe.wake()
        self._thread.join()
        self._pipe.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return is_interruption(error)

    @property
    def is_noticed(self) -> bool:
        """Whether a signal has come."""
        return self._is_noticed

    @property
    def stop(self) -> Callable[[], None] | None:
        """What a signal calls; called at once if set after a signal whose exception was lost."""
        return self._stop

    @stop.setter
    def stop(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        if self._is_noticed:
            stop()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """For calls that may never end, such as writing to a pipe that is not read."""
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False

    def begin_closing(self) -> None:
        """Interrupt nothing from now on: threads are being ended and files closed.

        A first signal then changes nothing; a second one still ends the process.
        """
        self._is_closing = True

    @property
    def _is_overdue(self) -> bool:
        """Whether the main thread is still in a call that the signal should have ended."""
        is_interruptible = self.stop is None or self._is_interruptible
        return is_interruptible and not self._is_closing and self._waited_s >= PATIENCE_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for stopping in STOP_SIGNALS:
            signal.signal(stopping, signal.SIG_DFL)
        self._is_noticed = True
        self._waited_s = 0.0
        if self._is_closing:
            return
        if self.stop is None:
            raise Interrupted  # lost in a destructor; then it is raised again later
        self.stop()

    def _nudged(self, number: int, frame: FrameType | None) -> None:
        if self._is_noticed and self._is_overdue:
            self._is_closing = True  # this exception leads to closing, which is not interrupted
            raise Interrupted

    def _watch(self) -> None:
        while self._pipe.wait() not in (0, *STOP_SIGNALS):
            pass
        while not self._has_ended.wait(NUDGE_EVERY_S):
            self._waited_s += NUDGE_EVERY_S
            if not self._is_noticed or self._is_overdue:
                signal.pthread_kill(self._main, NUDGE)
