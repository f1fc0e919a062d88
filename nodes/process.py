"""Runs a node as a process, from its arguments to its exit code.

The main thread only waits for a signal that stops it, and the node runs on a thread of its own. So
no signal interrupts a callback, nothing has to handle `KeyboardInterrupt`, and the context is valid
until the node has closed. Further signals are ignored, since closing takes at most `CLOSE_S`: after
Ctrl-C a node gets two signals, from the terminal and from the launch file.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from nodes.middleware import make_room_for_images
from pipeline.errors import ConfigError, InputError, VisionError, one_line
from pipeline.runtime.signals import STOP_SIGNALS, SignalPipe, caught_signals

if TYPE_CHECKING:
    from nodes.lifecycle import ManagedNode

CLOSE_S = 1.6  # of the 2 s that stopping may take; the rest is for the interpreter

logger = logging.getLogger(__name__)


@functools.cache
def hold_signals() -> SignalPipe:
    """Keep the signals that stop the process for `run` from now on."""
    pipe = SignalPipe()
    for number in caught_signals():
        signal.signal(number, lambda *_: None)
    return pipe


def run(make: Callable[[], ManagedNode], args: Sequence[str] | None = None) -> NoReturn:
    """Run the node that `make` creates until a signal ends it, then exit.

    The exit code is 0 after a signal, 2 for an `InputError` and 1 for other errors. A bug is shown
    with its traceback. `args` are those of the process by default.
    """
    stop = hold_signals()
    thread = _NodeThread(make, args, stop)
    thread.start()
    stop.wait()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    thread.end()
    thread.join(CLOSE_S)
    if thread.is_alive():  # blocked in a driver or a model
        os._exit(0)
    gc.collect()  # reference cycles of rclpy hold the participant and its shared memory
    gc.freeze()  # another collection at exit would take a second
    if thread.bug is not None:
        raise thread.bug
    if threading.active_count() > 1:  # a thread is left behind; the interpreter might wait for it
        os._exit(thread.exit_code)
    sys.exit(thread.exit_code)


class _NodeThread(threading.Thread):
    """Creates, spins and closes the node."""

    def __init__(
        self, make: Callable[[], ManagedNode], args: Sequence[str] | None, stop: SignalPipe
    ) -> None:
        super().__init__(name="node", daemon=True)
        self._make = make
        self._args = args
        self._stop_requests = stop
        self._wake: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._is_ending = False
        self.exit_code = 0
        self.bug: BaseException | None = None

    def end(self) -> None:
        """Request the end, from another thread."""
        with self._lock:
            self._is_ending = True
            if self._wake is not None:
                self._wake()

    def run(self) -> None:
        """Called by `start`; wakes the main thread if the node ends by itself."""
        try:
            self._run_node()
        except VisionError as error:
            # Keep no reference to the error: its traceback holds the node and its shared memory.
            self.exit_code = 2 if isinstance(error, InputError) else 1
        except BaseException as error:  # raised on the main thread
            self.bug = error
        if not self._is_ending:
            self._stop_requests.wake()

    def _run_node(self) -> None:
        _initialise(self._args)
        try:
            self._spin(self._create())
        except VisionError as error:
            get_logger("vision").fatal(one_line(error))
            raise
        finally:
            rclpy.try_shutdown()

    def _create(self) -> ManagedNode:
        try:
            return self._make()
        except ParameterException as error:  # of rclpy's parameters, such as use_sim_time
            raise ConfigError(one_line(error)) from error

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
            logger.debug("the context was shut down elsewhere")
        finally:
            with self._lock:
                self._wake = None
            node.close()
            executor.remove_node(node)
            node.destroy_node()


def _quoted(args: Sequence[str] | None) -> list[str]:
    """The arguments with `-p source:=scene:` quoted, which YAML reads as something else."""
    given = list(sys.argv if args is None else args)
    for number in range(1, len(given)):
        name, assigned, value = given[number].partition(":=")
        is_source = given[number - 1] in ("-p", "--param") and name.rpartition(":")[2] == "source"
        if is_source and assigned and value[:1] not in ("'", '"'):
            escaped = value.replace("'", "''")
            given[number] = f"{name}:='{escaped}'"
    return given


def _initialise(args: Sequence[str] | None) -> None:
    """Initialise rclpy; raises `ConfigError` if the arguments are not valid."""
    make_room_for_images()
    try:
        rclpy.init(args=_quoted(args), signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:  # the bases of rclpy's errors
        reason = one_line(error)
        if reason.startswith("["):  # a list of unknown arguments
            reason = f"unknown {reason}"
        elif "parameter override" in reason:
            reason += "; a value such as scene: needs its own quotes: -p \"source:='scene:'\""
        problem = f"--ros-args cannot be read: {reason}"
        # There is no logger yet.
        sys.stderr.write(f"{problem}\n")
        raise ConfigError(problem) from error
