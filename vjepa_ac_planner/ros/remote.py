"""The nodes ``planner`` and ``sim`` from outside: what a person with a terminal would do, by script.

It talks to both over ROS only, as any other node could: seed, reset and goal images from the robot,
enabling, status and diagnostics from the planner.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

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

_ANSWER_SECONDS = 20.0
_LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RemoteT = TypeVar("RemoteT", bound="Remote")


class Remote:
    """A client of both nodes in this ROS domain.

    Args:
        alive: asked while waiting; raises when a node has died.
    """

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("remote", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.status, self.actions = "", 0
        """The planner's last status, and how many plans it has published."""
        self.diagnostics: dict[str, dict[str, str]] = {}
        """Its newest diagnostics by part."""
        node = self.node
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
        if not self.spin(seconds, until=lambda: all(client.service_is_ready() for client in clients)):
            missing = [client.srv_name for client in clients if not client.service_is_ready()]
            raise NotReadyError(
                f"no answer within {seconds:.0f} s from {', '.join(missing)}; is the node running in ROS "
                "domain and network range of this process?"
            )

    def enable(self, on: bool = True) -> None:
        """Let the planner command the arm, or stop it.

        Raises:
            NotReadyError: it refuses; says why.
        """
        self.call(self._enable, SetBool.Request(data=on))

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def __enter__(self: RemoteT) -> RemoteT:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def give_goal(self) -> None:
        """Publish the goal, and wait until the planner has counted it.

        Raises:
            NotReadyError: it has not within 10 s.
        """
        before = self.goals_received()
        self.trigger("sim/publish_goal")
        if not self.spin(10.0, until=lambda: self.goals_received() > before):
            raise NotReadyError("the planner has not received the goal image within 10 s")

    def goals_received(self) -> int:
        """By the planner's newest diagnostics."""
        return int(self.diagnostics.get("planner: goal", {}).get("received", 0))

    def set_seed(self, seed: int) -> None:
        """Choose the simulator's task; takes effect at the next reset or goal.

        Raises:
            NotReadyError: it is refused.
        """
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name="seed", value=value)])
        (result,) = self.call(self._parameters, request).results
        if not result.successful:
            raise NotReadyError(f"sim/set_parameters: {result.reason}")

    def trigger(self, name: str) -> dict[str, Any]:
        """Call ``sim/reset``, ``sim/publish_goal``, ``sim/score`` or ``planner/reset``; its answer's JSON.

        Raises:
            NotReadyError: it refuses.
        """
        message = self.call(self._triggers[name], Trigger.Request()).message
        answer: dict[str, Any] = json.loads(message) if message.startswith("{") else {}
        return answer

    def call(self, client: Any, request: Any) -> Any:
        """The response of a service.

        Raises:
            NotReadyError: it says no, or nothing for 20 s.
        """
        future = client.call_async(request)
        if not self.spin(_ANSWER_SECONDS, until=future.done):
            raise NotReadyError(f"{client.srv_name}: no answer within {_ANSWER_SECONDS:.0f} s")
        response = future.result()
        if not getattr(response, "success", True):
            raise NotReadyError(f"{client.srv_name}: {response.message}")
        return response

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Take part in the graph until something holds, at most for so long [s]; whether it did."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self._alive()
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def _on_status(self, message: String) -> None:
        self.status = message.data

    def _on_action(self, _: JointState) -> None:
        self.actions += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {pair.key: pair.value for pair in status.values}
