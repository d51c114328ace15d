"""Grippers behind ROS actions: open or closed, one goal in flight, the latest wish next."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType

from vjepa_ac_planner.ros.gripper import GripperConfig, checked
from vjepa_ac_planner.ros.messages import import_messages

Grip = Literal["open", "closed"]

_PERIOD = 0.05
"""How often goals are looked after [s]."""
_PAUSE = 1.0
"""Between a goal that failed and the next attempt [s]."""
_JITTER = 0.05
"""Difference of closedness that may be an error of measurement."""


class Hysteresis:
    """Open or closed, from a closedness that wanders.

    What the fingers did before the first wish is not known, and a wide object held in them measures nearly
    open. So they are not opened until they are told to be more open than they are, and not closed until
    they are told to be more closed.
    """

    def __init__(self, config: GripperConfig) -> None:
        self._config = config
        self._first: float | None = None
        self.state: Grip | None = None

    def update(self, closed: float, measured: float | None = None) -> Grip | None:
        """The state after a new value; None as long as there was no reason for either."""
        if self._first is None:
            self._first = closed
        found = self._first if measured is None else measured
        more = measured is None or closed >= min(measured + _JITTER, 1.0)
        if closed >= self._config.close_above and (self.state == "open" or more):
            self.state = "closed"
        elif closed <= self._config.open_below and (self.state == "closed" or closed <= found - _JITTER):
            self.state = "open"
        return self.state


@dataclass
class _Kind:
    """How goals of one kind are sent, and how their results are read."""

    name: str
    client: Any
    goal: Any
    failure: Callable[[Any], str]
    """What a result says went wrong; empty when nothing did."""


@dataclass(eq=False)
class _Flight:
    """One goal from its sending to its result."""

    grip: Grip
    started: float
    handle: Any = None


class ActionGripper:
    """Sends franka_msgs Grasp and Move, or control_msgs GripperCommand goals.

    :meth:`send` only notes what is wanted. Goals are sent, awaited and given up by a timer of the node, on
    the steady clock: time of a bag or simulator that stands still must not keep a goal alive.

    Args:
        node: spun by someone else.
        config: backend ``grasp`` or ``gripper_command``.

    Raises:
        MissingDependencyError: the message package is not installed.
    """

    def __init__(self, node: Any, config: GripperConfig) -> None:
        self._node, self._config = node, config
        # Reentrant, because a callback that waits in another group must not keep results from arriving.
        self._group = ReentrantCallbackGroup()
        self._lock = threading.RLock()
        self._hysteresis = Hysteresis(config)
        self._wanted: Grip | None = None
        self._reached: Grip | None = None
        self._flight: _Flight | None = None
        self._failures = 0
        self._not_before = 0.0
        self._counts: Counter[str] = Counter()
        self._complaint = ""
        self._closed = False
        grasp = config.backend == "grasp"
        package = "franka_msgs.action" if grasp else "control_msgs.action"
        self._actions = import_messages(package, f"gripper backend {config.backend}")
        self._make_kinds = self._grasp_kinds if grasp else self._command_kinds
        self._kinds: dict[Grip, _Kind] = {}
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_PERIOD, self._tick, callback_group=self._group, clock=steady)

    def send(self, closedness: float, measured: float | None = None) -> None:
        """Note what is wanted."""
        value = checked(closedness)
        with self._lock:
            wanted = self._hysteresis.update(value, measured)
            if wanted != self._wanted:
                self._wanted, self._failures, self._not_before = wanted, 0, 0.0

    def hold(self) -> None:
        """Forget what is wanted; failed goals are not tried again either."""
        with self._lock:
            self._wanted = None
            # What the hand was told last counts, not what it would have been told next.
            self._hysteresis.state = self._flight.grip if self._flight else self._reached

    def forget(self) -> None:
        """Forget what is wanted, and what the hand has done so far."""
        with self._lock:
            self._wanted = self._reached = None
            self._hysteresis = Hysteresis(self._config)

    def status(self) -> str:
        """What is wanted, what is under way for it, and what went wrong how often."""
        with self._lock:
            counts = ", ".join(f"{number} {what}" for what, number in sorted(self._counts.items()))
            parts = [f"{self._config.backend}: {self._doing()}", counts, self._complaint]
        return "; ".join(filter(None, parts))

    def problem(self) -> str | None:
        """No action server, or a goal that failed every attempt."""
        with self._lock:
            if self._closed or self._wanted is None or self._wanted == self._reached or self._flight:
                return None
            if self._failures >= self._config.attempts:
                return f"not {self._wanted}: given up after {self._failures} attempts ({self._complaint})"
            kind = self._kinds.get(self._wanted)
            return (
                None if kind is None or kind.client.server_is_ready() else f"no action server {kind.name}"
            )

    def close(self) -> None:
        """Send nothing any more; what is in flight is left to the gripper."""
        with self._lock:
            if self._closed:
                return
            self._closed, self._flight = True, None
            self._node.destroy_timer(self._timer)
            for kind in self._kinds.values():
                kind.client.destroy()

    def _doing(self) -> str:
        if self._closed:
            return "off"
        if self._flight is not None:
            verb = "opening" if self._flight.grip == "open" else "closing"
            text = f"{verb} for {time.monotonic() - self._flight.started:.1f} s"
            return text if self._wanted in (None, self._flight.grip) else f"{text}, {self._wanted} next"
        if self._wanted is None:
            return self._reached or "left as it is"
        if self._wanted == self._reached:
            return self._wanted
        return self.problem() or f"to be {self._wanted}"

    def _tick(self) -> None:
        with self._lock:
            now = time.monotonic()
            flight = self._flight
            if self._closed or (flight is not None and now - flight.started <= self._config.timeout):
                return
            if not self._kinds:
                # Not in the constructor: an executor that spins in another thread meanwhile would come upon
                # a client that is half made, and die of it (rclpy issue 1589).
                self._kinds = self._make_kinds()
            if flight is not None:
                self._give_up(flight)
            wanted = self._wanted
            if (
                wanted is None
                or wanted == self._reached
                or self._failures >= self._config.attempts
                or now < self._not_before
            ):
                return
            kind = self._kinds[wanted]
            if kind.client.server_is_ready():
                self._start(_Flight(wanted, now), kind)

    def _start(self, flight: _Flight, kind: _Kind) -> None:
        self._flight, self._reached = flight, None
        future = kind.client.send_goal_async(kind.goal)
        future.add_done_callback(lambda done: self._answered(flight, kind, done))

    def _answered(self, flight: _Flight, kind: _Kind, future: Any) -> None:
        """The server has accepted or rejected the goal."""
        with self._lock:
            handle = future.result()
            if self._closed:
                return
            if flight is not self._flight:
                # Accepted after it was given up: by now something else may be wanted.
                if handle.accepted:
                    handle.cancel_goal_async()
            elif not handle.accepted:
                self._failed("rejected")
            else:
                flight.handle = handle
                handle.get_result_async().add_done_callback(lambda done: self._ended(flight, kind, done))

    def _ended(self, flight: _Flight, kind: _Kind, future: Any) -> None:
        """The goal's result is there."""
        with self._lock:
            if self._closed or flight is not self._flight:
                return
            answer = future.result()
            failure = kind.failure(answer.result)
            if answer.status == GoalStatus.STATUS_SUCCEEDED and not failure:
                self._flight, self._reached, self._failures, self._complaint = None, flight.grip, 0, ""
            else:
                cancelled = answer.status == GoalStatus.STATUS_CANCELED
                self._failed("cancelled" if cancelled else "aborted", failure)

    def _give_up(self, flight: _Flight) -> None:
        if flight.handle is not None:
            flight.handle.cancel_goal_async()
        what = "result" if flight.handle is not None else "answer"
        self._failed("timed out", f"no {what} within {self._config.timeout:g} s")

    def _failed(self, what: str, why: str = "") -> None:
        flight, self._flight = self._flight, None
        self._counts[what] += 1
        self._complaint = f"last goal {what}" + (f": {why}" if why else "")
        # A goal that nobody wants any more has no say in when the next one goes out.
        if flight is not None and flight.grip == self._wanted:
            self._failures += 1
            self._not_before = time.monotonic() + _PAUSE
        self._node.get_logger().warning(f"gripper: {self._complaint}")

    def _grasp_kinds(self) -> dict[Grip, _Kind]:
        config = self._config
        actions = self._actions
        grasp = actions.Grasp.Goal(width=config.closed_width, speed=config.speed, force=config.force)
        grasp.epsilon.inner = grasp.epsilon.outer = config.epsilon
        move = actions.Move.Goal(width=config.open_width, speed=config.speed)

        def failure(result: Any) -> str:
            return "" if result.success else result.error or "no success"

        return {
            "closed": self._kind(actions.Grasp, f"{config.target}/grasp", grasp, failure),
            "open": self._kind(actions.Move, f"{config.target}/move", move, failure),
        }

    def _command_kinds(self) -> dict[Grip, _Kind]:
        config = self._config
        action = self._actions.GripperCommand

        def failure(result: Any) -> str:
            # Fingers that stall on an object hold it.
            return "" if result.reached_goal or result.stalled else "neither reached nor stalled"

        def kind(width: float) -> _Kind:
            goal = action.Goal()
            # Each of the two fingers goes half of the way.
            goal.command.position, goal.command.max_effort = width / 2, config.force
            return self._kind(action, config.target, goal, failure)

        return {"closed": kind(config.closed_width), "open": kind(config.open_width)}

    def _kind(self, action: Any, name: str, goal: Any, failure: Callable[[Any], str]) -> _Kind:
        client: Any = ActionClient(self._node, action, name, callback_group=self._group)
        return _Kind(name, client, goal, failure)
