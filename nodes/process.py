"""A node as a process: from its arguments to its exit code.

The main thread does nothing but wait for SIGINT and SIGTERM, so no signal ever breaks into a
callback and nothing needs to expect `KeyboardInterrupt`; the node lives on a thread of its own.
While it ends, its context is still valid. Further signals change nothing, since its end takes no
longer than `PATIENCE_S`: after Ctrl-C a node gets two, the terminal's and the launch file's.
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
from pipeline.errors import ConfigError, InputError, VisionError

if TYPE_CHECKING:
    from nodes.lifecycle import ManagedNode

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.6  # of the 2 s that an end may take; the rest is for the interpreter

logger = logging.getLogger(__name__)


class StopRequests:
    """SIGINT and SIGTERM as bytes in a pipe, whichever thread the system gives them to."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # Python writes there from within the signal itself: the main thread may be anywhere.
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in STOPPING:
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Wait for the first one, even one from before; the next ones change nothing."""
        os.read(self._reader, 1)
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def make(self) -> None:
        """As if a signal had come; from any thread."""
        os.write(self._writer, b"\0")


@functools.cache
def hold_signals() -> StopRequests:
    """Keep SIGINT and SIGTERM for `run` from now on, so that they break into nothing."""
    return StopRequests()


def run(make: Callable[[], ManagedNode], args: Sequence[str] | None = None) -> NoReturn:
    """Run the node that `make` gives until a signal ends it; leaves with its exit code.

    0 after a signal, 2 for what the user gave (`InputError`), 1 for what broke; an error of ours is
    shown with its traceback. `args` are those of the process by default.
    """
    stop = hold_signals()
    life = _Life(make, args, stop)
    life.start()
    stop.wait()
    life.end()
    life.join(PATIENCE_S)
    if life.is_alive():  # inside a driver or a model, where no thread can be ended
        os._exit(0)
    gc.collect()  # rclpy's own circles keep the participant, and its shared memory
    gc.freeze()  # to go through all the rest again would take the interpreter a second
    if life.fault is not None:
        raise life.fault
    if threading.active_count() > 1:  # left behind in there, where the interpreter might wait too
        os._exit(life.exit_code)
    sys.exit(life.exit_code)


class _Life(threading.Thread):
    """The node's thread: makes it, spins it, and takes it down."""

    def __init__(
        self, make: Callable[[], ManagedNode], args: Sequence[str] | None, stop: StopRequests
    ) -> None:
        super().__init__(name="node", daemon=True)
        self._make = make
        self._args = args
        self._stop_requests = stop
        self._wake: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._is_ending = False
        self.exit_code = 0
        self.fault: BaseException | None = None

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
        except VisionError as error:
            # Not the error itself: its traceback keeps the node, and with it its shared memory.
            self.exit_code = 2 if isinstance(error, InputError) else 1
        except BaseException as error:  # the main thread shows it
            self.fault = error
        if not self._is_ending:
            self._stop_requests.make()

    def _live(self) -> None:
        _initialise(self._args)
        try:
            self._spin(self._made())
        except VisionError as error:
            get_logger("vision").fatal(str(error))
            raise
        finally:
            rclpy.try_shutdown()

    def _made(self) -> ManagedNode:
        try:
            return self._make()
        except ParameterException as error:  # of rclpy's own, such as use_sim_time
            raise ConfigError(" ".join(str(error).split())) from error

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
            with self._lock:
                self._wake = None
            node.close()
            executor.remove_node(node)
            node.destroy_node()


def _initialise(args: Sequence[str] | None) -> None:
    """Begin with ROS; raises `ConfigError` where the arguments cannot be read."""
    make_room_for_images()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:  # what rclpy's own derive from
        reason = " ".join(str(error).split())
        if reason.startswith("["):  # of rclpy, which says no more
            reason = f"unknown {reason}"
        elif "parameter override" in reason:
            reason += "; a value such as scene: needs its own quotes: -p \"source:='scene:'\""
        problem = f"--ros-args cannot be read: {reason}"
        # There is no log of ours yet.
        sys.stderr.write(f"{problem}\n")
        raise ConfigError(problem) from error
