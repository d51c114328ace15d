"""Tracking: from pose setpoints to motor commands.

Within a step (:meth:`TrackingController.move`) the flange follows a straight line with a smoothstep in
time over the first 80% of it; the rest lets the arm settle before the next image. A stream of setpoints
(:meth:`TrackingController.follow`) is smoothed by a first-order lag instead, as controllers of the real
arm do. Position actuators alone lag by their own damping term, so each command leads by it:
``ctrl = q + (kd / kp) * qdot``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vjepa_ac_planner.sim.kinematics import (
    Kinematics,
    Vector,
    joint_step_limit,
    rotation_from_vector,
    rotation_vector,
)
from vjepa_ac_planner.sim.model import GRIPPER_WIDTH, KD, KP, TIMESTEP

MOVE_FRACTION = 0.8
SUBSTEPS = 5
"""Physics steps per inverse-kinematics update: 25 updates in a quarter of a second."""
GRIPPER_SPEED = 0.2
"""Largest speed of the opening width [m/s], as of the real hand."""
FOLLOW_LAG = 0.04
"""Time constant with which the reference follows a stream of setpoints [s]: one or two of its periods."""
FOLLOW_SPEED = 1.0
"""Largest speed of the reference while it follows a stream [m/s]; the real arm's own limit is 1.7."""
FOLLOW_TURN = 2.5
"""Largest rotational speed of the reference while it follows a stream [rad/s], as of the real arm."""
GRIP_DEADBAND = 0.02
"""A gripper target this near the measured closedness keeps the last grip: an object stays held."""


class TrackingController:
    """Drives the arm of one simulation along pose setpoints.

    Args:
        mujoco: the imported module.
        model: the compiled scene.
        data: its live state, stepped by :meth:`move` and :meth:`follow`.
    """

    def __init__(self, mujoco: Any, model: Any, data: Any) -> None:
        self._mj, self._model, self._data = mujoco, model, data
        self.kinematics = Kinematics(mujoco, model)
        self._q = data.qpos[:7].copy()
        self._width = GRIPPER_WIDTH

    @property
    def closedness(self) -> float:
        """Measured gripper closedness, 0 open .. 1 closed."""
        width = float(self._data.qpos[7] + self._data.qpos[8])
        return float(np.clip(1.0 - width / GRIPPER_WIDTH, 0.0, 1.0))

    @property
    def commanded_closedness(self) -> float:
        """Closedness that the fingers are told to be at."""
        return float(np.clip(1.0 - self._width / GRIPPER_WIDTH, 0.0, 1.0))

    def reference(self) -> tuple[Vector, Vector]:
        """Position and rotation of link8 that the arm is told to hold at this moment."""
        return self.kinematics.forward(self._q)

    def place(self, position: Vector, rotation: Vector, closedness: float) -> None:
        """Put the arm at a pose at rest, without passing through anything in between."""
        self._q = self.kinematics.solve(position, rotation)
        self._width = GRIPPER_WIDTH * (1.0 - closedness)
        self._data.qpos[:7] = self._q
        self._data.qpos[7:9] = self._width / 2
        self._data.qvel[:9] = 0.0
        self._data.ctrl[:7] = self._q
        self._data.ctrl[7] = self._width / 2

    def restore(self) -> None:
        """Take over the setpoints in ``data.ctrl`` after the state was set from a snapshot."""
        self._q = self._data.ctrl[:7].copy()
        self._width = 2.0 * float(self._data.ctrl[7])

    def move(self, position: Vector, rotation: Vector, closedness: float, duration: float) -> None:
        """Step the physics for ``duration`` seconds while the flange goes to a pose.

        Args:
            position: [3] of link8 at the end [m].
            rotation: [3, 3] of link8 at the end.
            closedness: gripper target, 0 open .. 1 closed.
            duration: of the whole step [s].
        """
        start, start_rotation = self.reference()
        turn = rotation_vector(self._mj, rotation @ start_rotation.T)
        start_width = self._width
        if abs(closedness - self.closedness) > GRIP_DEADBAND:
            width = GRIPPER_WIDTH * (1.0 - closedness)
            reach = GRIPPER_SPEED * duration
            if width > start_width:  # a held object kept the fingers from where they were told to be
                start_width = max(start_width, GRIPPER_WIDTH * (1.0 - self.closedness))
            self._width = float(np.clip(width, start_width - reach, start_width + reach))
        updates = max(1, round(duration / (TIMESTEP * SUBSTEPS)))
        limit = joint_step_limit(TIMESTEP * SUBSTEPS)
        for k in range(1, updates + 1):
            s = smoothstep(k / (MOVE_FRACTION * updates))
            previous = self._q
            self._q = self.kinematics.update(
                previous,
                start + s * (position - start),
                rotation_from_vector(self._mj, s * turn) @ start_rotation,
                limit=limit,
            )
            self._data.ctrl[7] = (start_width + s * (self._width - start_width)) / 2
            self._advance(previous)
        self._settle()

    def follow(self, position: Vector, rotation: Vector, closedness: float, duration: float) -> None:
        """Step the physics for ``duration`` seconds while the flange goes after a setpoint of a stream.

        Unlike :meth:`move` it need not arrive, and does not slow down at the end: the next setpoint comes.

        Args:
            position: [3] of link8 [m].
            rotation: [3, 3] of link8.
            closedness: gripper target, 0 open .. 1 closed; a target beyond a held object keeps the grip.
            duration: a multiple of 10 ms [s].
        """
        seconds = TIMESTEP * SUBSTEPS
        share = 1.0 - math.exp(-seconds / FOLLOW_LAG)
        limit = joint_step_limit(seconds)
        width = GRIPPER_WIDTH * (1.0 - closedness)
        if width > self._width:  # a held object kept the fingers from where they were told to be
            self._width = max(self._width, min(width, GRIPPER_WIDTH * (1.0 - self.closedness)))
        for _ in range(max(1, round(duration / seconds))):
            here, here_rotation = self.reference()
            way = _at_most(share * (position - here), FOLLOW_SPEED * seconds)
            turn = _at_most(
                share * rotation_vector(self._mj, rotation @ here_rotation.T), FOLLOW_TURN * seconds
            )
            previous = self._q
            self._q = self.kinematics.update(
                previous, here + way, rotation_from_vector(self._mj, turn) @ here_rotation, limit=limit
            )
            reach = GRIPPER_SPEED * seconds
            self._width = float(np.clip(width, self._width - reach, self._width + reach))
            self._data.ctrl[7] = self._width / 2
            self._advance(previous)
        self._settle()

    def _advance(self, previous: Vector) -> None:
        """The physics steps of one update: from the joints ``previous`` to the new reference."""
        speed = (self._q - previous) / (TIMESTEP * SUBSTEPS)
        for i in range(1, SUBSTEPS + 1):
            self._data.ctrl[:7] = previous + (i / SUBSTEPS) * (self._q - previous) + (KD / KP) * speed
            self._mj.mj_step(self._model, self._data)

    def _settle(self) -> None:
        self._data.ctrl[:7] = self._q
        # A physics step ends with new joints but the positions of the old ones.
        self._mj.mj_kinematics(self._model, self._data)


def _at_most(vector: Vector, length: float) -> Vector:
    """The vector, shortened to ``length`` if it is longer."""
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-12))


def smoothstep(t: float) -> float:
    """0 to 1 with zero speed at both ends; constant outside."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)
