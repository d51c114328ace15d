"""The gripper: how far it is closed, and the goals that close and open it, whatever it listens to.

A planner says at every setpoint how closed the gripper should be. A Franka hand cannot follow that: each
of its goals takes a second, all are accepted, none is preempted, and they queue up. So the action backends
know two states, closed and open, with hysteresis between them, and never have more than one goal in
flight; what is wanted by the time it ends is sent next, what was wanted in between is forgotten.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.ros.messages import import_messages

_USUAL_NAMES = {
    "none": "",
    "grasp": "franka_gripper",
    "gripper_command": "franka_gripper/gripper_action",
    "float_array": "gripper/gripper_position_controller/commands",
}


@dataclass(frozen=True)
class GripperConfig:
    """Which gripper there is, and how it is told to close and open."""

    backend: Literal["none", "grasp", "gripper_command", "float_array"] = "none"
    """none: never moved. grasp: franka_msgs actions Grasp and Move. gripper_command: control_msgs action
    GripperCommand, position half the width. float_array: std_msgs/Float64MultiArray, 0 closed .. 1 open, as
    CRISP's adapter of the Franka hand takes it; follows continuously."""
    name: str | None = None
    """Where it listens: the namespace of the actions ``grasp`` and ``move`` (franka_gripper, fr3_gripper or
    panda_gripper, by driver and release), the GripperCommand action, or the topic of the array. null
    takes what is usual for the backend."""
    finger_joints: tuple[str, ...] = ("panda_finger_joint1", "panda_finger_joint2")
    """Joints in the gripper's joint states whose positions add up to its width."""
    stroke: float = ranged(0.08, low=0.001, high=2.0, unit="m")
    """Width when fully open [m]; closedness is 1 - width / stroke."""
    open_width: float = ranged(0.078, low=0.001, high=2.0, unit="m")
    """Width of an open goal [m]; a little under the stroke, because a width beyond what the hand found at
    homing is refused."""
    closed_width: float = ranged(0.0, low=0.0, high=2.0, unit="m")
    """Width of a close goal [m]; 0 closes on whatever is there."""
    close_above: float = ranged(0.35, low=0.0, high=1.0)
    """An open gripper closes when told to be this closed: by one action of 0.35, and not by the smallest,
    0.25, that the planner lets through."""
    open_below: float = ranged(0.27, low=0.0, high=1.0)
    """A closed gripper opens when told to be no more closed than this: fully closed, by one action of 0.75,
    the largest of the paper. Were it higher, a wide object, which measures nearly open, would be let go of
    by an action that means to hold it tighter."""
    speed: float = ranged(0.05, low=0.001, high=0.5, unit="m/s")
    """Of the fingers [m/s]."""
    force: float = ranged(20.0, low=0.1, high=140.0, unit="N")
    """Of a grasp [N]; never 0, which can stall the Franka hand for over a minute."""
    epsilon: float = ranged(0.08, low=0.001, high=0.2, unit="m")
    """How far the width of what is grasped may lie from ``closed_width``, either way [m]: as large as the
    stroke, any object counts as grasped. For ``grasp`` only: with ``gripper_command`` franka_gripper uses
    its own ``default_grasp_epsilon`` of 5 mm and calls a held object a failure, unless that is raised."""
    timeout: float = ranged(5.0, low=0.1, high=120.0, unit="s")
    """A goal whose result has not come by then is cancelled and counted [s]."""
    attempts: int = ranged(3, low=1, high=100)
    """How often a goal that fails is sent, one second apart, until something else is wanted."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.closed_width < self.open_width <= self.stroke:
            raise ConfigError(
                f"open_width: received {self.open_width} m, allowed above closed_width "
                f"{self.closed_width} m, up to stroke {self.stroke} m"
            )
        if not self.open_below < self.close_above:
            raise ConfigError(
                f"open_below: received {self.open_below}, allowed below close_above {self.close_above}"
            )
        if not self.finger_joints:
            raise ConfigError("finger_joints: received none, allowed are the names of one or more joints")
        if self.name == "":
            raise ConfigError("name: received '', allowed a name, or null for the usual one")

    @property
    def target(self) -> str:
        """Where the gripper listens."""
        return self.name or _USUAL_NAMES[self.backend]


class Gripper(Protocol):
    """What every backend offers; all of it may be called from any thread and returns at once."""

    def send(self, closedness: float, measured: float | None = None) -> None:
        """Say how closed the gripper should be; as often as one likes.

        Args:
            closedness: 0 open .. 1 closed.
            measured: how closed it is now. Without it the first value counts as that, so a first value that
                means to open does nothing.

        Raises:
            InputError: not a number in 0 .. 1, give or take rounding.
        """
        ...

    def hold(self) -> None:
        """Forget what has not been sent yet; call it when the arm must hold. A goal in flight goes on."""
        ...

    def forget(self) -> None:
        """Forget also what was done before: meanwhile somebody may have opened or closed the gripper."""
        ...

    def status(self) -> str:
        """One line for diagnostics: what the gripper was last told, and what went wrong how often."""
        ...

    def problem(self) -> str | None:
        """Why the gripper is not as told, with nothing under way to change that; else None."""
        ...

    def close(self) -> None:
        """Send nothing any more. A goal in flight is left alone: an object is not let go of."""
        ...


def make_gripper(node: Any, config: GripperConfig) -> Gripper:
    """The gripper behind ``node``, which must be spun for actions to make progress.

    Raises:
        MissingDependencyError: the backend's message package is not installed.
    """
    if config.backend == "none":
        return NoGripper()
    if config.backend == "float_array":
        return FloatArrayGripper(node, config)
    from vjepa_ac_planner.ros.gripper_actions import ActionGripper

    return ActionGripper(node, config)


def closedness(message: Any, config: GripperConfig) -> float:
    """How closed a ``sensor_msgs/JointState`` says the gripper is: 1 - sum(finger joints) / stroke.

    Returns:
        0 open .. 1 closed; fingers that stand a little beyond the ends count as at the end.

    Raises:
        InputError: a finger joint is missing or has no finite position, or the width is no such stroke's.
    """
    positions = dict(zip(message.name, message.position, strict=False))
    missing = [name for name in config.finger_joints if name not in positions]
    if missing:
        raise InputError(
            f"gripper: no position of {', '.join(missing)}; received "
            f"{', '.join(positions) or 'none'}; correct finger_joints in the robot's profile"
        )
    width = math.fsum(positions[name] for name in config.finger_joints)
    closed = 1.0 - width / config.stroke
    if not -0.1 <= closed <= 1.1:
        raise InputError(
            f"gripper: received a width of {width:.4g} m, allowed 0 .. {config.stroke:.4g} m; "
            "is stroke in the robot's profile right?"
        )
    return min(max(closed, 0.0), 1.0)


class NoGripper:
    """A gripper that nobody moves."""

    def send(self, closedness: float, measured: float | None = None) -> None:
        """Check the value, and do nothing."""
        checked(closedness)

    def hold(self) -> None:
        """Nothing to do."""

    def forget(self) -> None:
        """Nothing to do."""

    def status(self) -> str:
        """Always ``none``."""
        return "none"

    def problem(self) -> str | None:
        """Always None."""
        return None

    def close(self) -> None:
        """Nothing to do."""


class FloatArrayGripper:
    """A gripper that follows a topic: every value is published as openness, 0 closed .. 1 open."""

    def __init__(self, node: Any, config: GripperConfig) -> None:
        self._message = import_messages("std_msgs.msg", "gripper backend float_array").Float64MultiArray
        self._node, self._topic = node, config.target
        self._publisher = node.create_publisher(self._message, config.target, 1)
        self._lock = threading.Lock()
        self._last: float | None = None

    def send(self, closedness: float, measured: float | None = None) -> None:
        """Publish it."""
        value = checked(closedness)
        with self._lock:
            if self._publisher is not None:
                self._publisher.publish(self._message(data=[1.0 - value]))
                self._last = value

    def hold(self) -> None:
        """Nothing to do: every value is sent at once."""

    def forget(self) -> None:
        """Nothing to do."""

    def status(self) -> str:
        """The last value, and whether anybody listens."""
        last = "nothing sent" if self._last is None else f"closedness {self._last:.2f}"
        problem = self.problem()
        return f"float_array: {last}" + (f", {problem}" if problem else "")

    def problem(self) -> str | None:
        """Nobody listens."""
        with self._lock:
            if self._publisher is None or self._publisher.get_subscription_count() > 0:
                return None
        return f"nobody listens to {self._topic}"

    def close(self) -> None:
        """Stop publishing."""
        with self._lock:
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._node.destroy_publisher(publisher)


def checked(closed: float) -> float:
    """The closedness, in 0 .. 1.

    Raises:
        InputError: it lies outside by more than rounding, or is NaN.
    """
    if not -1e-6 <= closed <= 1 + 1e-6:
        raise InputError(f"gripper: closedness must lie in 0 (open) .. 1 (closed), received {closed}")
    return float(min(max(closed, 0.0), 1.0))
