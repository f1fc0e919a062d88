"""SIGINT and SIGTERM: the first one ends the run properly, a second one the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from pipeline.errors import RunError

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.0  # how long anything may hold up the end; a reader of our pipe may never read on
NUDGE = signal.SIGURG  # what does nothing to a process that has no handler for it any more
NUDGE_EVERY_S = 0.1


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

    Once `stop` is set, only what is done within `breakable` is broken off, where it goes on for
    longer than `PATIENCE_S`. Handlers take no locks, because the thread that they interrupt may
    hold any.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_noted = False
        self._is_breakable = False
        self._is_patient = False
        self._nudger = _Nudger(lambda: not self._is_noted or self._is_overdue)

    def __enter__(self) -> StopSignals:
        self._before[NUDGE] = signal.signal(NUDGE, self._nudged)
        self._nudger.start()
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.be_patient()
        self._nudger.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return is_interruption(error)

    @property
    def stop(self) -> Callable[[], None] | None:
        """What a signal calls. Set after one whose interruption was lost, it is called at once."""
        return self._stop

    @stop.setter
    def stop(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        if self._is_noted:
            stop()

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """For what may never come to an end, such as writing to a pipe that nobody reads."""
        self._is_breakable = True
        try:
            yield
        finally:
            self._is_breakable = False

    def be_patient(self) -> None:
        """From now on nothing is broken off: threads are being ended and files closed.

        A first signal has nothing left to ask for then; a second one still ends the process.
        """
        self._is_patient = True

    @property
    def _is_overdue(self) -> bool:
        """Whether the main thread is where it should have left since the signal was noted."""
        is_breakable = self.stop is None or self._is_breakable
        return is_breakable and not self._is_patient and self._nudger.waited_s >= PATIENCE_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for stopping in STOPPING:
            signal.signal(stopping, signal.SIG_DFL)
        self._is_noted = True
        self._nudger.waited_s = 0.0
        if self._is_patient:
            return
        if self.stop is None:
            raise Interrupted  # which is lost where it hits a destructor; it is raised again then
        self.stop()

    def _nudged(self, number: int, frame: FrameType | None) -> None:
        if self._is_noted and self._is_overdue:
            self._is_patient = True  # with what this interruption has to be tidied up
            raise Interrupted


class _Nudger:
    """Makes the main thread notice a signal wherever it is, by sending it `NUDGE`.

    Python's handlers run on the main thread, between two of its steps. A signal that the system
    gave to another thread, or that came just as the main thread was about to wait for something,
    is noticed when that wait is over: where nobody reads our pipe, never. Therefore this thread,
    which hears of signals at once, breaks off such waits, for as long as `is_needed`.
    """

    def __init__(self, is_needed: Callable[[], bool]) -> None:
        self.waited_s = 0.0  # since a signal came; while the process is stopped nothing is added
        self._is_needed = is_needed
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def start(self) -> None:
        """Begin to listen; called by the main thread."""
        self._main = threading.get_ident()
        try:
            self._ear, self._mouth = os.pipe()
        except OSError as error:
            raise RunError(
                f"signals: {error.strerror}; raise the limit of open files (ulimit -n)"
            ) from error
        os.set_blocking(self._mouth, False)
        self._before = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        self._thread.start()

    def end(self) -> None:
        """Listen and nudge no more."""
        signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        self._has_ended.set()
        with contextlib.suppress(BlockingIOError):  # it has enough to read then
            os.write(self._mouth, bytes(1))
        self._thread.join()
        os.close(self._ear)
        os.close(self._mouth)

    def _run(self) -> None:
        while os.read(self._ear, 1)[0] not in (0, *STOPPING):
            pass
        while not self._has_ended.wait(NUDGE_EVERY_S):
            self.waited_s += NUDGE_EVERY_S
            if self._is_needed():
                signal.pthread_kill(self._main, NUDGE)
