"""The base of all nodes: states, parameters, `~/enable`, diagnostics and logging.

A node implements `configure`, `activate`, `deactivate` and `cleanup`. An error of `pipeline.errors`
in one of them is logged on one line and leaves the node in its state. Any other exception is a bug:
it is logged with its traceback, everything is released, and the node becomes unconfigured.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool

from nodes.messages.diagnostics import Activity, Diagnostics
from nodes.parameters import (
    AUTOSTART,
    DIAGNOSTICS,
    Parameter,
    Parameters,
    Value,
    parameters_of_settings,
)
from pipeline.errors import ConfigError, VisionError, one_line
from pipeline.text.display import printable_lines

HOUSEKEEPING_S = 1.0
DEBUG = 10  # rclpy's level of that name


class RosHandler(logging.Handler):
    """Passes log records on to a node's logger, with the same severity."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        line = one_line(self.format(record))
        # One call per severity: rclpy rejects two severities from the same line of code.
        if record.levelno >= logging.ERROR:
            self._logger.error(line)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(line)
        elif record.levelno >= logging.INFO:
            self._logger.info(line)
        else:
            self._logger.debug(line)


class ManagedNode(LifecycleNode):
    """A lifecycle node that configures and activates itself unless `autostart` is false.

    - `parameters`: the values of the parameters, by name: those of the settings that name the node,
      those of `table`, and those of every node
    - `state`: `unconfigured`, `inactive`, `active` or `finalized`
    - `enabled`: False while `~/enable` has paused the node
    - `problem`: why the node does not work, for diagnostics; empty if it does
    - `info`: models, source and the like, for diagnostics and the log

    Subclasses implement the hooks below, which run on the executor's thread. `configure` and
    `activate` may raise; `cleanup` and `deactivate` then release what they created so far. Both are
    idempotent and do not raise.
    """

    def __init__(self, name: str, table: Sequence[Parameter], **options: Any) -> None:
        super().__init__(name, **options)
        _forward_logs(self.get_logger())
        shared = parameters_of_settings(name)
        self.parameters = Parameters(self, (AUTOSTART, *shared, *table, *DIAGNOSTICS))
        self.state = "unconfigured"
        self.enabled = True
        self.problem = ""
        self.info: dict[str, str] = {}
        self._diagnostics = Diagnostics(self, self.parameters)
        self.create_service(SetBool, "~/enable", self._enable)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._rejecting(service.callback)
        # A steady clock, so that warnings also come while simulated time is stopped.
        self.create_timer(
            HOUSEKEEPING_S, self._each_second, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    # --- hooks ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Open models and create publishers. Raises a `VisionError` if one is unusable."""

    def activate(self) -> None:
        """Subscribe or open the source, and start."""

    def deactivate(self) -> None:
        """Stop what `activate` started; models stay open."""

    def cleanup(self) -> None:
        """Release what `configure` created."""

    def pause(self, paused: bool) -> None:
        """Pause or resume; called for `~/enable`."""

    def housekeep(self) -> None:
        """Work to do once a second in every state."""

    def activities(self) -> Sequence[Activity]:
        """The counts of each camera, for diagnostics."""
        return ()

    def may_open_models(self, changed: Mapping[str, Value]) -> bool:
        """Whether changed parameters name another model, which has to be opened now.

        Raises `ConfigError` if the node is active.
        """
        models = [name for name in ("detector", "classifier") if name in changed]
        if models and self.state == "active":
            raise ConfigError(f"{models[0]} cannot be changed while active; deactivate first")
        return bool(models) and self.state == "inactive"

    # --- states -----------------------------------------------------------------------------

    def start(self) -> None:
        """Configure and activate, if `autostart` is true."""
        if self.parameters["autostart"] and self.trigger_configure() == _SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop all threads and release everything, in any state; call before `destroy_node`."""
        self.deactivate()
        self.cleanup()
        self.state = "finalized"

    def fail(self, problem: str) -> None:
        """Go from active to inactive because of a fault; call on the executor's thread."""
        if self.state != "active":
            return
        self.get_logger().error(f"{problem}; inactive until it is activated again")
        self.trigger_deactivate()
        self.problem = problem

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._transition("configure", self.configure, "inactive", self.cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        outcome = self._transition("activate", self.activate, "active", self.deactivate)
        return outcome if outcome != _SUCCESS else super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        super().on_deactivate(state)
        return self._transition("deactivate", self.deactivate, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._transition("clean up", self.cleanup, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        self.close()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy after a bug; success means unconfigured."""
        self.close()
        self.state = "unconfigured"
        return _SUCCESS

    def _transition(
        self,
        name: str,
        work: Callable[[], None],
        target: str,
        undo: Callable[[], None] = lambda: None,
    ) -> TransitionCallbackReturn:
        try:
            work()
        except VisionError as error:
            self.problem = one_line(error)
            self.get_logger().error(f"cannot {name}: {self.problem}")
            undo()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it silently
            self.problem = one_line(f"{type(error).__name__}: {error}")
            self.get_logger().error(f"cannot {name}: {printable_lines(traceback.format_exc())}")
            return TransitionCallbackReturn.ERROR
        self.problem = ""
        self.state = target
        return _SUCCESS

    def _rejecting(self, change: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The `change_state` service; up to Jazzy, rclpy ends the node on a wrong transition."""

        def change_or_reject(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except RuntimeError as error:  # the base of rclpy's own error
                problem = f"no such transition while {self.state}: {one_line(error)}"
                self.get_logger().error(problem)
                response.success = False
                return response

        return change_or_reject

    # --- while the node runs ----------------------------------------------------------------

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        self.pause(not request.data)
        response.success = True
        response.message = "enabled" if request.data else "paused"
        self.get_logger().info(response.message)
        return response

    def _each_second(self) -> None:
        self.housekeep()
        self._diagnostics.publish(
            self.activities(),
            self.info,
            state=self.state,
            problem=self.problem,
            enabled=self.enabled,
        )


def _forward_logs(logger: Any) -> None:
    """Send what the engine logs from now on to a node's logger."""
    engine = logging.getLogger("pipeline")
    engine.handlers = [RosHandler(logger)]
    engine.propagate = False
    engine.setLevel(logging.DEBUG if logger.is_enabled_for(DEBUG) else logging.INFO)


_SUCCESS = TransitionCallbackReturn.SUCCESS
