"""The planner as a ROS 2 lifecycle node.

Threads: one takes images and states (:mod:`.reader`); the executor's callbacks, of services and goals,
only post jobs; one worker plans (:mod:`.runner`); one sends setpoints (:mod:`.setpoints`). The arm is
commanded only between ``~/set_enabled true`` and ``false``; before, after, and in a dry run nothing is sent
at all.

configure
    loads model and task, warms the model up, subscribes; activate
    allows goals and runs; deactivate
    holds and falls silent; cleanup
    frees everything.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from vjepa_ac_planner.errors import ConfigError, PlannerError
from vjepa_ac_planner.planning.ranks import rank
from vjepa_ac_planner.planning.sharded import serve
from vjepa_ac_planner.ros import priority
from vjepa_ac_planner.ros.parameters import NodeConfig, declare, parameters, resolve
from vjepa_ac_planner.ros.profile import load_profile
from vjepa_ac_planner.ros.session import Session

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
DIAGNOSTICS_SECONDS = 0.5


class PlannerNode(LifecycleNode):
    """See the module.

    Args:
        name: node name.
        options: passed on to the lifecycle node, such as ``parameter_overrides`` and ``cli_args``.

    Raises:
        ConfigError: a parameter that cannot be.
    """

    def __init__(self, name: str = "planner", **options: Any) -> None:
        super().__init__(name, **options)
        first = declare(self, parameters(NodeConfig()))
        profile = load_profile(first["robot"])
        self._values = {**first, **declare(self, parameters(profile))}
        self.config, self.profile = resolve(self._values)
        self.session: Session | None = None
        self._offered: list[Any] = []
        self._diagnoses_timer: Any = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.add_on_set_parameters_callback(self._on_parameters)
        backwards = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jumps = self.get_clock().create_jump_callback(backwards, post_callback=self._on_jump)

    # Lifecycle. rclpy swallows exceptions of transitions: each is caught, said, and becomes FAILURE.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load everything that takes time, and fail loudly."""
        return self._transition("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept goals; nothing moves until it is enabled."""

        def activate() -> None:
            self._running().activate()
            super(PlannerNode, self).on_activate(state)

        return self._transition("activate", activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold, then send nothing any more."""

        def deactivate() -> None:
            self._running().deactivate()
            super(PlannerNode, self).on_deactivate(state)

        return self._transition("deactivate", deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and its memory."""
        return self._transition("cleanup", self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop from any state."""
        return self._transition("shutdown", self._cleanup)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed half-way: back to unconfigured."""
        return self._transition("error handling", self._cleanup)

    def close(self) -> None:
        """Stop whatever runs and free everything, from any state; for the end of the process."""
        if self._transition("close", self._cleanup) is not SUCCESS:
            self.get_logger().error("could not close in order; no command is sent any more")
        self.destroy_node()

    def _transition(self, name: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except PlannerError as error:
            self.get_logger().error(f"{name}: {error}")
            return FAILURE
        except Exception:
            self.get_logger().error(f"{name}: {traceback.format_exc()}")
            return FAILURE
        return SUCCESS

    def _configure(self) -> None:
        self.config, self.profile = resolve(self._values)
        self.session = Session(self, self.config, self.profile)
        self._offered = [
            self.create_service(SetBool, "~/set_enabled", self._set_enabled),
            # A group of its own: while its answer is awaited, no other callback of its group is called.
            self.create_service(
                Trigger, "~/plan_once", self._plan_once, callback_group=ReentrantCallbackGroup()
            ),
            self.create_service(Trigger, "~/set_goal_from_current", self._set_goal_from_current),
            self.create_service(Trigger, "~/reset", self._reset),
        ]
        self._diagnoses_timer = self.create_timer(DIAGNOSTICS_SECONDS, self._diagnose, clock=_steady())
        # A full collection looks at every object there is, for a fifth of a second here, and no setpoint
        # is sent meanwhile: what was made so far is left out of it from now on.
        gc.collect()
        gc.freeze()

    def _cleanup(self) -> None:
        if self._diagnoses_timer is not None:
            self.destroy_timer(self._diagnoses_timer)
            self._diagnoses_timer = None
        for service in self._offered:
            self.destroy_service(service)
        self._offered = []
        session, self.session = self.session, None
        if session is not None:
            session.close()
            gc.unfreeze()

    def _running(self) -> Session:
        if self.session is None:
            raise ConfigError("the node is not configured")
        return self.session

    # Services.

    def _set_enabled(self, request: Any, response: Any) -> Any:
        return self._answer(
            response, lambda session: session.enable() if request.data else session.disable()
        )

    async def _plan_once(self, request: Any, response: Any) -> Any:
        """Answered when the plan is there; the executor goes on meanwhile."""
        try:
            future = self._running().plan_once()
        except PlannerError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = await future
        return response

    def _set_goal_from_current(self, request: Any, response: Any) -> Any:
        return self._answer(response, lambda session: session.goal_from_current())

    def _reset(self, request: Any, response: Any) -> Any:
        return self._answer(response, lambda session: session.reset())

    def _answer(self, response: Any, action: Callable[[Session], str]) -> Any:
        try:
            response.message, response.success = action(self._running()), True
        except PlannerError as error:
            response.message, response.success = str(error), False
            self.get_logger().warning(response.message)
        return response

    # Everything else.

    def _on_parameters(self, changed: Sequence[Any]) -> SetParametersResult:
        """Take over what may change while running; the configuration objects decide."""
        values = {**self._values, **{parameter.name: parameter.value for parameter in changed}}
        try:
            config, profile = resolve(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values, self.config, self.profile = values, config, profile
        if self.session is not None:
            self.session.reconfigure(config, profile)
        return SetParametersResult(successful=True)

    def _on_jump(self, jump: Any) -> None:
        if self.session is not None:
            self.session.time_jumped()

    def _diagnose(self) -> None:
        if self.session is not None:
            self.session.attend()
            self._diagnostics.publish(self.session.diagnostics())


def _steady() -> Any:
    from rclpy.clock import Clock

    return Clock(clock_type=ClockType.STEADY_TIME)


def _score_for_the_node() -> int:
    # The interrupt is the node's to act on: it holds the arm, and then sends the other ranks home.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve()
    except PlannerError as error:
        sys.stderr.write(f"planner: {error}\n")
        return error.exit_code
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code.

    Started by ``torchrun`` on several devices, rank 0 is the node, and the others score candidates for it.

    Args:
        argv: command line, such as ``["--ros-args", "-p", "robot:=sim"]``; None takes the process's.
    """
    if rank() > 0:
        return _score_for_the_node()
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.logging import get_logger
    from rclpy.signals import SignalHandlerOptions

    # A list and no Event: a second signal while the first one's handler holds its lock would hang.
    stop: list[int] = []
    # Ours, not rclpy's: its handler takes the context down first, and no hold could be sent any more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    # The setpoint thread must not wait 5 ms for each turn of the interpreter, nor for a core.
    sys.setswitchinterval(0.001)
    priority.prefer_process()
    rclpy.init(
        args=None if argv is None else ["planner", *argv], signal_handler_options=SignalHandlerOptions.NO
    )
    try:
        node = PlannerNode()
    except PlannerError as error:
        get_logger("planner").fatal(str(error))
        rclpy.shutdown()
        return error.exit_code
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    code = 0
    if node.config.autostart:
        for transition in (node.trigger_configure, node.trigger_activate):
            if not stop and not code and transition() is not SUCCESS:
                code = 1
    while not stop and not code:
        try:
            executor.spin_once(timeout_sec=0.1)
        except Exception:  # a callback's defect must not end the process that holds the arm
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
    node.close()
    executor.shutdown()
    rclpy.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
