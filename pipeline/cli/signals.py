"""Makes the first SIGINT, SIGTERM or SIGHUP stop a run, and a second one end the process at once.

A second SIGHUP does not: when a terminal closes, both the kernel and the shell may send one.

A node has its main thread wait for signals and works on another one (`nodes.process`). A command
cannot: windows have to be drawn on the main thread, and a write to a pipe that is never read ends
only by an exception, which signals can raise on the main thread alone.

A call into a library may never return, such as that of a model with an endless loop. Python runs no
handler then, so a thread waits for signals too: it stops the run, and ends the process in time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pipeline.errors import VisionError
from pipeline.runtime.signals import STOP_SIGNALS, SignalPipe, catch_once, caught_signals

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those of which a second one ends the process at once."""
PATIENCE_S = 1.0  # how long writing may delay the stop
BEGIN_S = 1.3  # how long after the signal closing may begin; then the main thread is given up
CLOSE_S = 1.5  # how long closing may take once it has begun
SILENCE_S = 0.5  # a main thread that answers no `NUDGE` for this long is inside a library
GRACE_S = 3.0  # how much longer one that answers may take, as on a busy machine
RESCUE_S = 0.5  # how long `rescue` may take
NUDGE = signal.SIGURG  # is ignored by a process that has no handler for it any more
NUDGE_EVERY_S = 0.1
EXIT_BY_SIGNAL = 128  # shells add the number of the signal

logger = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A signal asked for a stop. Like KeyboardInterrupt, it passes handlers of errors."""


def is_interruption(error: BaseException | None) -> bool:
    """Whether a signal asked for a stop, also while a library was being loaded or at work.

    Libraries turn what is raised inside them into errors of their own: C++ modules while they are
    loaded, and Numba while it compiles.
    """
    while isinstance(error, Exception) and not isinstance(error, VisionError):
        error = error.__cause__ or error.__context__
    return isinstance(error, (Interrupted, KeyboardInterrupt))


class StopSignals:
    """While entered, the first signal calls `stop`, or leaves the block if that is not set yet.

    Once `stop` is set, only what runs within `interruptible` is interrupted, after `PATIENCE_S`.
    Handlers take no locks, because the thread that they interrupt may hold any.

    A thread waits for signals too, and interrupts a blocking call of the main thread by sending it
    `NUDGE`: to notice a signal, and later to leave a call that should have ended. While the main
    thread does not notice it, because it is inside a library, the thread calls `unblock`. If it
    does not return in time, the thread calls `rescue` and ends the process with `exit_code`.
    """

    def __init__(self, exit_code: int = 0) -> None:
        self._exit_code = exit_code
        self.unblock: Callable[[], None] = lambda: None
        """Makes a call into a library return; called from another thread, maybe several times."""
        self.rescue: Callable[[], None] = lambda: None
        """Closes files in place of the main thread; called from another thread."""
        self.hurry: Callable[[], None] = lambda: None
        """Called for a signal that comes while closing; takes no locks."""
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_noticed = False
        self._is_interruptible = False
        self._is_closing = False
        self._waited_s = 0.0  # since the signal; nothing is added while the process is suspended
        self._limit_s = BEGIN_S
        self._answered_s = 0.0  # the same as `_waited_s`, at the last answer of the main thread
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> StopSignals:
        self._main = threading.get_ident()
        self._pipe = SignalPipe()
        self._before[NUDGE] = signal.signal(NUDGE, self._nudged)
        self._thread.start()
        for number in caught_signals():
            self._before[number] = signal.signal(number, self._handle)
            if number in ENDING_SIGNALS:
                catch_once(number)
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

        A first signal then only limits how long that takes; a second one still ends the process.
        """
        self._limit_s = max(BEGIN_S, self._waited_s + CLOSE_S)
        self._is_closing = True

    @property
    def _is_overdue(self) -> bool:
        """Whether the main thread is still in a call that the signal should have ended."""
        is_interruptible = self.stop is None or self._is_interruptible
        return is_interruptible and not self._is_closing and self._waited_s >= PATIENCE_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for caught in self._before.keys() - {NUDGE}:
            is_ending = caught in ENDING_SIGNALS
            signal.signal(caught, signal.SIG_DFL if is_ending else signal.SIG_IGN)
        self._is_noticed = True
        if self._is_closing:
            self.hurry()
            return
        if self.stop is None:
            raise Interrupted  # lost in a destructor; then it is raised again later
        self.stop()

    def _nudged(self, number: int, frame: FrameType | None) -> None:
        self._answered_s = self._waited_s
        if self._is_noticed and self._is_overdue:
            self.begin_closing()  # this exception leads to closing, which is not interrupted
            raise Interrupted

    def _watch(self) -> None:
        while self._pipe.wait() not in (0, *STOP_SIGNALS):
            pass
        while not self._has_ended.is_set():
            number = self._pipe.wait(NUDGE_EVERY_S)
            if number in ENDING_SIGNALS:
                os._exit(EXIT_BY_SIGNAL + number)
            if number is None:
                self._waited_s += NUDGE_EVERY_S
                self._press()

    def _press(self) -> None:
        """Make the main thread notice the signal, or do its work if it does not return in time."""
        late_s = self._waited_s - self._limit_s
        silent_s = self._waited_s - self._answered_s
        if (late_s >= 0 and silent_s >= SILENCE_S) or late_s >= GRACE_S:
            self._end_without_main_thread()
        if not self._is_noticed:
            self.unblock()
        if not self._is_noticed or self._is_overdue or late_s >= -SILENCE_S:
            signal.pthread_kill(self._main, NUDGE)

    def _end_without_main_thread(self) -> None:
        def save() -> None:
            logger.warning("a call into a library does not end; ending without it")
            if not self._is_closing:
                self.rescue()

        helper = threading.Thread(target=save, name="rescue", daemon=True)
        helper.start()
        helper.join(RESCUE_S)
        os._exit(self._exit_code)
