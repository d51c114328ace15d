"""The limits themselves: what a step and a setpoint may be, as pure functions of numbers.

Each takes whatever it is given, NaN and infinity included, and returns something that obeys the limits
together with a :class:`Finding` for everything it had to change. Poses are [7] float64 state vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.control.rotation import limit_rotation, pose_difference, rotation_angle, step
from vjepa_ac_planner.errors import ConfigError, SafetyError
from vjepa_ac_planner.types import STATE_DIM, FloatArray

Effect = Literal["limited", "hold", "pause"]

_ROUNDING = 1e-6
"""Less than this [m, rad] beyond a limit is cut too, but not worth a word: plans are made in float32."""


@dataclass(frozen=True)
class Finding:
    """One thing the safety layer objected to: the limit, the value, the bound, and what it did."""

    limit: str
    value: str
    bound: str
    effect: Effect

    def __str__(self) -> str:
        """Such as ``max_translation: 0.210 m, allowed 0.130 m (limited)``."""
        return f"{self.limit}: {self.value}, allowed {self.bound} ({self.effect})"


@dataclass(frozen=True)
class MotionLimits:
    """How far and how fast the arm may go."""

    workspace_low: tuple[float, float, float] = ranged(low=-2.0, high=2.0, unit="m")
    """Lowest allowed end-effector position [m], base frame."""
    workspace_high: tuple[float, float, float] = ranged(low=-2.0, high=2.0, unit="m")
    """Highest allowed end-effector position [m]."""
    workspace_slack: float = ranged(0.01, low=0.0, high=0.05, unit="m")
    """How far outside the workspace the arm may be, by tracking error, and still move along its side
    [m], with targets inside; from further out only motion that comes nearer to it is let through."""
    max_translation: float = ranged(0.13, low=1e-4, high=0.5, unit="m")
    """Longest translation in one step [m]."""
    max_rotation: float = ranged(0.3, low=1e-4, high=1.6, unit="rad")
    """Largest rotation in one step [rad]."""
    max_speed: float = ranged(0.6, low=1e-3, high=1.7, unit="m/s")
    """Largest speed of the setpoint [m/s]; a step longer than this allows in its time is shortened.
    1.7 m/s is all that a Panda can do."""
    max_rotation_speed: float = ranged(1.5, low=1e-3, high=2.5, unit="rad/s")
    """Largest rotational speed of the setpoint [rad/s]; 2.5 rad/s is all that a Franka arm can do."""
    max_gripper_speed: float = ranged(4.0, low=1e-3, high=100.0, unit="1/s")
    """Largest change of closedness per second."""
    step_seconds: float = ranged(0.25, low=0.01, high=10.0, unit="s")
    """Time one step takes [s]; that of the model."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for axis, low, high in zip("xyz", self.workspace_low, self.workspace_high, strict=True):
            if not low < high:
                raise ConfigError(f"workspace {axis}: low {low} m must be below high {high} m")

    @property
    def low(self) -> FloatArray:
        """[3] lowest position [m]."""
        return np.array(self.workspace_low)

    @property
    def high(self) -> FloatArray:
        """[3] highest position [m]."""
        return np.array(self.workspace_high)

    def translation(self, seconds: float) -> float:
        """Longest translation within ``seconds`` [m]."""
        return min(self.max_translation, self.max_speed * seconds)

    def rotation(self, seconds: float) -> float:
        """Largest rotation within ``seconds`` [rad]."""
        return min(self.max_rotation, self.max_rotation_speed * seconds)

    def gripper(self, seconds: float) -> float:
        """Largest change of closedness within ``seconds``."""
        return min(1.0, self.max_gripper_speed * seconds)

    def outside(self, position: FloatArray) -> float:
        """Distance from a position to the workspace [m], 0 inside."""
        return float(np.linalg.norm(position - np.clip(position, self.low, self.high)))


def limit_step(base: Any, action: Any, limits: MotionLimits) -> tuple[FloatArray, tuple[Finding, ...]]:
    """The pose one step leads to, with the step brought within all limits.

    Args:
        base: [7] pose to start from.
        action: [7] wanted change.
        limits: what is allowed.

    Returns:
        The [7] target and what was objected to. If a finding has the effect ``hold`` the target is
        ``base``.

    Raises:
        SafetyError: ``base`` itself is not seven finite numbers: there is no pose to hold.
    """
    base = _pose("base", base)
    action = _numbers(action)
    if action is None:
        finding = Finding("action", "not 7 finite numbers", "7 finite numbers", "hold")
        return base, (finding,)
    findings: list[Finding] = []
    action = _shortened(action, limits, limits.step_seconds, findings)

    position = base[:3]
    distance = limits.outside(position)
    low, high = limits.low, limits.high
    if distance > limits.workspace_slack:
        # Between the workspace and where the arm is now: it never goes further out on any axis.
        low, high = np.minimum(low, position), np.maximum(high, position)
    wanted = position + action[:3]
    allowed = np.clip(wanted, low, high)
    if np.abs(allowed - wanted).max() > _ROUNDING:
        findings.append(_workspace_finding(wanted, limits, "limited"))
    if distance > limits.workspace_slack and not limits.outside(allowed) < distance:
        return base, (*findings, _workspace_finding(position, limits, "hold"))
    # Back from a tracking error, a step may have become longer than it was.
    way = _shortened(np.append(allowed - position, action[3:]), limits, limits.step_seconds, [])
    target = step(base, way)
    target[:3] = np.clip(target[:3], np.minimum(low, position), np.maximum(high, position))  # rounding
    return target, tuple(findings)


def limit_setpoint(previous: Any, target: Any, dt: float, limits: MotionLimits) -> FloatArray:
    """The next setpoint of a stream: from ``previous`` towards ``target``, as far as the speeds allow.

    Both ends of the way being in the workspace, so is all of it.

    Args:
        previous: [7] last setpoint sent.
        target: [7] pose to end at; anything that is not seven finite numbers holds at ``previous``.
        dt: time since the last setpoint [s]; more than one step counts as one step, so that a stream
            that stalled does not jump; 0, negative or NaN holds.
        limits: what is allowed.

    Raises:
        SafetyError: ``previous`` is not seven finite numbers.
    """
    previous = _pose("previous setpoint", previous)
    goal = _numbers(target)
    if goal is None or not dt > 0.0:
        return previous
    dt = min(dt, limits.step_seconds)
    position = previous[:3]
    goal[:3] = np.clip(goal[:3], np.minimum(limits.low, position), np.maximum(limits.high, position))
    goal[6] = np.clip(goal[6], 0.0, 1.0)
    return step(previous, _shortened(pose_difference(previous, goal), limits, dt, []))


def pose_distance(pose: FloatArray, other: FloatArray) -> tuple[float, float]:
    """How far two poses [7] are apart: translation [m] and rotation [rad]."""
    action = pose_difference(pose, other)
    return float(np.linalg.norm(action[:3])), rotation_angle(action[3:6])


def _shortened(
    action: FloatArray, limits: MotionLimits, seconds: float, findings: list[Finding]
) -> FloatArray:
    """The action [7] cut to what ``seconds`` allow, direction and axis kept."""
    action = action.copy()
    bound = limits.translation(seconds)
    length = math.hypot(*action[:3])
    if length > bound:
        # Huge numbers overflow to an infinite length, and have no direction worth keeping.
        action[:3] = action[:3] / length * bound if np.isfinite(length) else 0.0
        if length > bound + _ROUNDING:
            findings.append(Finding("max_translation", f"{length:.3f} m", f"{bound:.3f} m", "limited"))
    bound = limits.rotation(seconds)
    angle = rotation_angle(action[3:6])
    if angle > bound:
        action[3:6] = limit_rotation(action[3:6], bound)
        if angle > bound + _ROUNDING:
            findings.append(Finding("max_rotation", f"{angle:.3f} rad", f"{bound:.3f} rad", "limited"))
    bound = limits.gripper(seconds)
    if abs(action[6]) > bound:
        if abs(action[6]) > bound + _ROUNDING:
            text = f"{bound:.3f} a step"
            findings.append(Finding("max_gripper_speed", f"{action[6]:+.3f}", text, "limited"))
        action[6] = np.clip(action[6], -bound, bound)
    return action


def _workspace_finding(position: FloatArray, limits: MotionLimits, effect: Effect) -> Finding:
    """Names the axis that is furthest out."""
    beyond = np.maximum(limits.low - position, position - limits.high)
    axis = int(np.argmax(beyond))
    bound = f"{limits.low[axis]:.3f} .. {limits.high[axis]:.3f} m"
    return Finding(f"workspace {'xyz'[axis]}", f"{position[axis]:.3f} m", bound, effect)


def _numbers(value: Any) -> FloatArray | None:
    """[7] finite float64 numbers, or None."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (STATE_DIM,) and np.isfinite(array).all() else None


def _pose(name: str, value: Any) -> FloatArray:
    pose = _numbers(value)
    if pose is None:
        raise SafetyError(
            f"{name}: expected 7 finite numbers [x, y, z, rx, ry, rz, gripper], received {value!r}; "
            "no command can be made, stop the arm by other means"
        )
    return pose
