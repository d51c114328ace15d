"""Trials of planner and simulated robot from outside: what a person with a terminal would do, by script.

It talks to both nodes over ROS only, as any other node could: seed and reset for the robot, a goal image
for the planner, then enable, watch, and ask the simulator how near the arm has come.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vjepa_ac_planner.errors import NotReadyError

ENDED = ("settled", "done", "stopped", "paused")
"""States of the planner in which it has nothing more to do."""
SETTLE_SECONDS = 0.5
"""After the last action the arm may still be on its way [s]."""
STALL_SECONDS = 30.0
"""A trial ends when no plan has come for so long [s]."""
QUIET_SECONDS = 0.7
"""A planner that was disabled goes on holding for a while: the arm must not be taken away under it [s]."""
_ANSWER_SECONDS = 20.0
_LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


@dataclass
class Trial:
    """One seed, from the start of its task to the planner's end or the last step."""

    seed: int
    errors_m: list[float] = field(default_factory=list)
    """True distance to the goal [m]: at the start, at each plan after the first, and at the end."""
    plans: int = 0
    """Plans that were published."""
    ended: str = ""
    """The planner's last status, or what ended the trial."""
    success: bool = False
    """What the simulator says of the end."""
    seconds: float = 0.0
    """From enabling to the end [s]."""
    setpoints: dict[str, Any] = field(default_factory=dict)
    """What the arm's side counted: received, refused, gaps."""


class Trials:
    """Runs trials against the nodes ``planner`` and ``sim`` of this ROS domain.

    Args:
        alive: asked while waiting; raises when a node has died.
    """

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("trials", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._status, self._actions = "", 0
        self._diagnostics: dict[str, dict[str, str]] = {}
        node = self._node
        node.create_subscription(String, "planner/status", self._on_status, _LATCHED)
        node.create_subscription(JointState, "planner/action", self._on_action, 50)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._triggers: dict[str, Any] = {
            name: node.create_client(Trigger, name)
            for name in ("sim/reset", "sim/publish_goal", "sim/score", "planner/reset")
        }
        self._enable: Any = node.create_client(SetBool, "planner/set_enabled")
        self._parameters: Any = node.create_client(SetParameters, "sim/set_parameters")

    def wait(self, seconds: float) -> None:
        """Wait until both nodes answer.

        Raises:
            NotReadyError: they did not in time; names the services that are missing.
        """
        clients = (*self._triggers.values(), self._enable, self._parameters)
        if not self._spin(seconds, until=lambda: all(client.service_is_ready() for client in clients)):
            missing = [client.srv_name for client in clients if not client.service_is_ready()]
            raise NotReadyError(
                f"no answer within {seconds:.0f} s from {', '.join(missing)}; is the node running in ROS "
                "domain and network range of this process?"
            )

    def run(self, seed: int, max_plans: int, on_plan: Callable[[int, float], None]) -> Trial:
        """One trial; afterwards the planner is disabled.

        Args:
            seed: of the task.
            max_plans: the trial ends when so many plans were made.
            on_plan: told the number of each plan and the true error when it was made [m].

        Raises:
            NotReadyError: a node refused, or does not answer.
        """
        self._call(self._enable, SetBool.Request(data=False))
        self._spin(QUIET_SECONDS)
        self._trigger("planner/reset")
        self._set_seed(seed)
        trial = Trial(seed, [self._trigger("sim/reset")["error_m"]])
        self._give_goal()
        self._actions, self._status = 0, ""
        begin = time.monotonic()
        self._call(self._enable, SetBool.Request(data=True))
        while not self._ended() and self._actions < max_plans:
            if not self._spin(STALL_SECONDS, until=lambda: self._actions > trial.plans or self._ended()):
                break
            while trial.plans < self._actions:
                trial.plans += 1
                error = self._trigger("sim/score")["error_m"]
                if trial.plans > 1:
                    trial.errors_m.append(error)
                on_plan(trial.plans, error)
        self._spin(SETTLE_SECONDS)
        trial.seconds = time.monotonic() - begin
        planned = f"{self._actions} plans were made"
        trial.ended = self._status if self._ended() or self._actions < max_plans else planned
        self._call(self._enable, SetBool.Request(data=False))
        score = self._trigger("sim/score")
        trial.errors_m.append(score["error_m"])
        trial.success, trial.setpoints = score["success"], score["setpoints"]
        return trial

    def overhead(self) -> dict[str, Any]:
        """What the planner says of its own times, [p50, p95] in seconds, and of its setpoints."""
        self._diagnostics.clear()
        self._spin(2.0, until=lambda: "planner: setpoint stream" in self._diagnostics)
        planning = self._diagnostics.get("planner: planning", {})
        stream = self._diagnostics.get("planner: setpoint stream", {})
        return {
            "frame_to_plan_s": _numbers(planning, "frame arrival to plan start"),
            "plan_s": _numbers(planning, "plan [s]"),
            "command_to_setpoint_s": _numbers(stream, "newest command to its first setpoint"),
        }

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_goal(self) -> None:
        """Publish the goal, and wait until the planner has counted it."""
        before = self._goals_received()
        self._trigger("sim/publish_goal")
        if not self._spin(10.0, until=lambda: self._goals_received() > before):
            raise NotReadyError("the planner has not received the goal image within 10 s")

    def _goals_received(self) -> int:
        return int(self._diagnostics.get("planner: goal", {}).get("received", 0))

    def _set_seed(self, seed: int) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name="seed", value=value)])
        (result,) = self._call(self._parameters, request).results
        if not result.successful:
            raise NotReadyError(f"sim/set_parameters: {result.reason}")

    def _trigger(self, name: str) -> dict[str, Any]:
        message = self._call(self._triggers[name], Trigger.Request()).message
        answer: dict[str, Any] = json.loads(message) if message.startswith("{") else {}
        return answer

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        if not self._spin(_ANSWER_SECONDS, until=future.done):
            raise NotReadyError(f"{client.srv_name}: no answer within {_ANSWER_SECONDS:.0f} s")
        response = future.result()
        if not getattr(response, "success", True):
            raise NotReadyError(f"{client.srv_name}: {response.message}")
        return response

    def _spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self._alive()
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def _ended(self) -> bool:
        return self._status.partition(":")[0] in ENDED

    def _on_status(self, message: String) -> None:
        self._status = message.data

    def _on_action(self, _: JointState) -> None:
        self._actions += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._diagnostics[status.name] = {pair.key: pair.value for pair in status.values}


def _numbers(values: dict[str, str], beginning: str) -> list[float] | None:
    """The numbers of the value whose key begins so."""
    text = next((value for key, value in values.items() if key.startswith(beginning)), "-")
    return None if text == "-" else [float(word) for word in text.split()]
