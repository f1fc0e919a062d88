"""What all our nodes have in common: states, parameters, `~/enable`, a second's housekeeping.

A node says what it needs in `configure`, `activate`, `deactivate` and `cleanup`; what goes wrong
there with an error of `pipeline.errors` is logged in one line and leaves the node in the state it
was in. Anything else is a fault of ours: logged with its traceback, all freed, and the node is
unconfigured again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool

from nodes.logs import pass_on_logs
from nodes.parameters.declaration import AUTOSTART, Parameter, Parameters
from pipeline.errors import VisionError

HOUSEKEEPING_S = 1.0


class ManagedNode(LifecycleNode):
    """A lifecycle node that configures and activates itself, unless `autostart` is false.

    - `parameters`: the values of the node's table, by name
    - `state`: `unconfigured`, `inactive`, `active` or `finalized`
    - `enabled`: False while `~/enable` has paused it
    - `problem`: why it is not working, for diagnostics; empty where it is

    Subclasses implement the four hooks, and `housekeep`, which is called once a second. All are
    called on the executor's thread. `configure` and `activate` may raise; what they had made until
    then is taken back by `cleanup` and `deactivate`, which may be called twice and do not raise.
    """

    def __init__(self, name: str, table: Sequence[Parameter], **options: Any) -> None:
        super().__init__(name, **options)
        pass_on_logs(self.get_logger())
        self.parameters = Parameters(self, (AUTOSTART, *table))
        self.state = "unconfigured"
        self.enabled = True
        self.problem = ""
        self.create_service(SetBool, "~/enable", self._enable)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refusing(service.callback)
        # Steady: with simulated time that stands still, it is still worth a warning.
        self.create_timer(
            HOUSEKEEPING_S, self.housekeep, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    # --- what a node does -------------------------------------------------------------------

    def configure(self) -> None:
        """Open models and create publishers; raise a `VisionError` for what cannot be used."""

    def activate(self) -> None:
        """Subscribe or open the source, and begin."""

    def deactivate(self) -> None:
        """End what `activate` began; models stay."""

    def cleanup(self) -> None:
        """Free what `configure` made."""

    def pause(self, paused: bool) -> None:
        """Stop or go on taking images; called for `~/enable`."""

    def housekeep(self) -> None:
        """What is to be done once a second, in every state."""

    # --- the states -------------------------------------------------------------------------

    def start(self) -> None:
        """Configure and activate, where the node is to do so by itself."""
        if self.parameters["autostart"] and self.trigger_configure() == _SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """End threads and free everything, whatever the state; before `destroy_node`."""
        self.deactivate()
        self.cleanup()
        self.state = "finalized"

    def fail(self, problem: str) -> None:
        """Go from active to inactive because of a fault; on the executor's thread."""
        if self.state != "active":
            return
        self.get_logger().error(f"{problem}; inactive until it is activated again")
        self.trigger_deactivate()
        self.problem = problem

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._transition("configure", self.configure, self.cleanup, "inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        outcome = self._transition("activate", self.activate, self.deactivate, "active")
        return outcome if outcome != _SUCCESS else super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        super().on_deactivate(state)
        return self._transition("deactivate", self.deactivate, _nothing, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._transition("clean up", self.cleanup, _nothing, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        self.close()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy after a fault of ours; success means unconfigured."""
        self.deactivate()
        self.cleanup()
        self.state = "unconfigured"
        return _SUCCESS

    def _transition(
        self,
        name: str,
        work: Callable[[], None],
        undo: Callable[[], None],
        reached: str,
    ) -> TransitionCallbackReturn:
        try:
            work()
        except VisionError as error:
            self.problem = str(error)
            self.get_logger().error(f"cannot {name}: {error}")
            undo()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would pass over it without a word
            self.problem = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot {name}: {traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        self.problem = ""
        self.state = reached
        return _SUCCESS

    def _refusing(self, change: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The service that changes states, which up to Jazzy ends the node where it cannot."""

        def change_or_refuse(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except RuntimeError as error:  # what rclpy's own derives from
                reason = " ".join(str(error).split())
                self.get_logger().error(f"no such transition while {self.state}: {reason}")
                response.success = False
                return response

        return change_or_refuse

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        self.pause(not request.data)
        response.success = True
        response.message = "enabled" if request.data else "paused"
        self.get_logger().info(response.message)
        return response


def _nothing() -> None:
    """Nothing to take back."""


_SUCCESS = TransitionCallbackReturn.SUCCESS
