"""A node as a process: from its arguments to its exit code.

The main thread does nothing but wait for SIGINT and SIGTERM, so no signal ever breaks into a
callback and nothing needs to expect `KeyboardInterrupt`; the node lives on a thread of its own.
While it ends, its context is still valid: it can say goodbye. A second signal ends the process at
once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from pipeline.errors import InputError, VisionError

if TYPE_CHECKING:
    from nodes.lifecycle import ManagedNode

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.6  # of the 2 s that an end may take; the rest is for the interpreter

logger = logging.getLogger(__name__)


def hold_signals() -> None:
    """Keep SIGINT and SIGTERM for `run`, so that they break into nothing until then."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def run(make: Callable[[], ManagedNode], args: Sequence[str] | None = None) -> NoReturn:
    """Run the node that `make` gives until a signal ends it; leaves with its exit code.

    0 after a signal, 2 for what the user gave (`InputError`), 1 for what broke; an error of ours is
    shown with its traceback. `args` are those of the process by default.
    """
    hold_signals()
    life = _Life(make, args)
    life.start()
    signal.sigwait(STOPPING)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    life.end()
    life.join(PATIENCE_S)
    if life.is_alive():  # inside a driver or a model, where no thread can be ended
        os._exit(0)
    if life.failure is not None and not isinstance(life.failure, VisionError):
        raise life.failure
    sys.exit(life.exit_code)


class _Life(threading.Thread):
    """The node's thread: makes it, spins it, and takes it down."""

    def __init__(self, make: Callable[[], ManagedNode], args: Sequence[str] | None) -> None:
        super().__init__(name="node", daemon=True)
        self._make = make
        self._args = args
        self._wake: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._is_ending = False
        self.failure: BaseException | None = None

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        if self.failure is None:
            return 0
        return 2 if isinstance(self.failure, InputError) else 1

    def end(self) -> None:
        """Ask for the end, from another thread."""
        with self._lock:
            self._is_ending = True
            if self._wake is not None:
                self._wake()

    def run(self) -> None:
        """The whole life; whatever ends it early wakes the main thread."""
        try:
            self._live()
        except BaseException as error:  # the main thread shows it
            self.failure = error
        if not self._is_ending:
            os.kill(os.getpid(), signal.SIGTERM)

    def _live(self) -> None:
        rclpy.init(args=self._args, signal_handler_options=SignalHandlerOptions.NO)
        try:
            self._spin(self._make())
        except VisionError as error:
            get_logger("vision").fatal(str(error))
            raise
        finally:
            rclpy.try_shutdown()

    def _spin(self, node: ManagedNode) -> None:
        executor = SingleThreadedExecutor()
        ended: Future[None] = Future(executor=executor)
        try:
            executor.add_node(node)
            with self._lock:
                if self._is_ending:
                    return
                self._wake = lambda: ended.set_result(None)
            node.start()
            executor.spin_until_future_complete(ended)
        except ExternalShutdownException:
            logger.debug("somebody else has shut the context down")
        finally:
            node.close()
            executor.remove_node(node)
            node.destroy_node()
