"""The setpoint stream: many small setpoints a second, independent of how slow planning is.

It holds no clock, no I/O and no thread, so that every rule can be tested: times are passed in, one
setpoint comes out. A step of a plan becomes a smooth motion from the last setpoint to the target; every
setpoint passes :meth:`SafetyLayer.setpoint`, so a command that is too old, or any number that is not
one, holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.rotation import pose_difference, rotation_vector, step, vector_to_euler
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.types import Command, FloatArray, RobotState

_MOVE_FRACTION = 0.8
"""Share of a step in which its motion is done; in the rest the arm settles before the next frame."""


@dataclass(frozen=True)
class Setpoint:
    """One element of the stream."""

    kind: Literal["move", "hold", "follow"]
    """``follow``: the robot cannot be commanded now, so the setpoint is wherever it is measured to be;
    when it can be again, nothing jumps."""
    pose: FloatArray
    """[7] pose and closedness, model frame."""
    twist: FloatArray
    """[6] velocity [m/s, rad/s] of the model frame's origin; zero unless ``kind`` is ``move`` and twists
    are wanted."""
    reason: str = ""
    """Why it is no motion."""


class SetpointStream:
    """Turns the newest command into setpoints.

    Args:
        safety: limits and the rules of age.
        twists: whether velocities are wanted beside poses.
    """

    def __init__(self, safety: SafetyLayer, *, twists: bool = True) -> None:
        self._safety, self._twists = safety, twists
        self.begin()

    def begin(self) -> None:
        """Start afresh: the next setpoint is the measured pose, and no command is known."""
        self._previous: FloatArray | None = None
        self._command: Command | None = None
        """The command that is on its way, from ``_start``, since ``_elapsed`` seconds."""
        self._start: FloatArray = np.zeros(7)
        self._way: FloatArray = np.zeros(7)
        """From there to the target."""
        self._turn: FloatArray = np.zeros(3)
        """Its rotation as a vector [3] [rad]."""
        self._elapsed = 0.0
        self._forgotten: Command | None = None
        """The command that was there when the robot stopped listening: it is not taken up again."""

    def next(
        self,
        command: Command | None,
        state: RobotState | None,
        now: float,
        dt: float,
        status: RobotStatus | None = None,
    ) -> Setpoint | None:
        """The next setpoint, or None as long as there is no fresh state to start from: then send nothing.

        Args:
            command: the newest command of the safety layer, None before the first.
            state: newest robot state.
            now: current time on the clock of the stamps [s].
            dt: time since the last call [s].
            status: what the robot says about itself, if it does.
        """
        unready = self._safety.unready(state, now, status)
        if self._previous is None:
            if state is None or self._safety.unready(state, now, None):
                return None
            self._previous, dt = state.vector, 0.0
        if unready:
            follows = state is not None and not self._safety.unready(state, now, None)
            if follows and state is not None:
                self._previous = np.append(state.vector[:6], self._previous[6])
            self._forgotten = command
            return self._still("follow" if follows else "hold", unready)
        if command is None:
            return self._still("hold", "no command yet")
        if command is self._forgotten:
            return self._still("hold", "the robot has stopped listening since the last plan was made")
        wanted = replace(command, target=self._on_the_way(command, self._previous, dt))
        self._previous = self._safety.setpoint(wanted, self._previous, now, dt)
        assert state is not None
        if command.kind == "hold":
            return self._still("hold", command.reason)
        # A twist goes on until the next one: while time stands still, no command would ever grow old.
        runs = self._twists and dt > 0.0
        twist = self._safety.twist(command, state.vector, now) if runs else np.zeros(6)
        age, bound = now - command.stamp, self._safety.config.max_plan_age
        reason = "" if age <= bound else f"max_plan_age: {age:.3f} s, allowed {bound:.3f} s (hold)"
        return Setpoint("hold" if reason else "move", self._previous, twist, reason)

    def _still(self, kind: Literal["hold", "follow"], reason: str) -> Setpoint:
        assert self._previous is not None
        return Setpoint(kind, self._previous, np.zeros(6), reason)

    def _on_the_way(self, command: Command, previous: FloatArray, dt: float) -> FloatArray:
        """[7] where a smooth motion to the command's target is at this moment."""
        if command is not self._command:
            way = pose_difference(previous, command.target)
            self._way, self._turn = way, rotation_vector(way[3:6])
            # Last, so that a command which cannot be followed never goes the way of the one before.
            self._command, self._start, self._elapsed = command, previous, 0.0
        self._elapsed += dt if 0.0 < dt < command.duration else 0.0
        t = min(self._elapsed / (_MOVE_FRACTION * command.duration), 1.0)
        share = t * t * (3.0 - 2.0 * t)
        action = np.concatenate((self._way[:3] * share, vector_to_euler(self._turn * share), (0.0,)))
        return np.append(step(self._start, action)[:6], command.target[6])
