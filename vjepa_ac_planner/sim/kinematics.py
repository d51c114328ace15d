"""Where the flange is for given joints, and which joints put it where it should be.

Damped least squares with a null-space pull to a rest posture: the seven joints are then (nearly) a
function of the flange pose, so that the same pose looks the same whichever way the arm came.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.sim.model import JOINT_HIGH, JOINT_LOW, JOINT_SPEED, REST_POSTURE

Vector = npt.NDArray[np.float64]
_JOINT_MARGIN = 0.02
_DAMPING = 0.01
_ROTATION_WEIGHT = 0.3
"""Metres that one radian counts as: an arm of this reach."""


class Kinematics:
    """Forward and inverse kinematics of the arm, on data of its own.

    Args:
        mujoco: the imported module.
        model: the compiled scene; the arm's seven joints come first.
    """

    def __init__(self, mujoco: Any, model: Any) -> None:
        self._mj = mujoco
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = model.site("link8").id
        self._jacobian = np.zeros((6, model.nv))

    def forward(self, q: Vector) -> tuple[Vector, Vector]:
        """Position [3] and rotation matrix [3, 3] of link8 in the base frame for joints ``q`` [7]."""
        self._data.qpos[:7] = q
        self._mj.mj_kinematics(self._model, self._data)
        return (
            self._data.site_xpos[self._site].copy(),
            self._data.site_xmat[self._site].reshape(3, 3).copy(),
        )

    def update(
        self, q: Vector, position: Vector, rotation: Vector, *, limit: Vector | None = None
    ) -> Vector:
        """One damped least-squares step from ``q`` towards a flange pose.

        Args:
            q: [7] joints [rad].
            position: [3] wanted position of link8 [m].
            rotation: [3, 3] wanted rotation of link8.
            limit: [7] largest change of each joint [rad]; the whole step is scaled to keep it.

        Returns:
            [7] the next joints, inside their limits.
        """
        error, jacobian = self._error(q, position, rotation)
        square = jacobian @ jacobian.T
        square[np.diag_indices(6)] += _DAMPING**2
        pull = 0.15 * (REST_POSTURE - q)
        # J+ e + (I - J+ J) pull, with one solve for both.
        change = pull + jacobian.T @ np.linalg.solve(square, error - jacobian @ pull)
        if limit is not None:
            change /= max(1.0, float(np.max(np.abs(change) / limit)))
        return np.clip(q + change, JOINT_LOW + _JOINT_MARGIN, JOINT_HIGH - _JOINT_MARGIN)

    def solve(self, position: Vector, rotation: Vector) -> Vector:
        """Joints [7] for a flange pose, always found from the rest posture: one pose, one answer.

        Raises:
            InputError: the pose is out of reach or beyond a joint limit.
        """
        q = REST_POSTURE.copy()
        limit = np.full(7, 0.3)
        for _ in range(300):
            following = self.update(q, position, rotation, limit=limit)
            settled = float(np.abs(following - q).max()) < 1e-7
            q = following
            if settled:
                break
        error, _ = self._error(q, position, rotation)
        distance, angle = np.linalg.norm(error[:3]), np.linalg.norm(error[3:]) / _ROTATION_WEIGHT
        if distance > 1e-3 or angle > 5e-3:
            raise InputError(
                f"pose: the arm cannot put link8 at {np.round(position, 4).tolist()} m; the nearest it "
                f"gets is {distance:.3f} m and {angle:.3f} rad away; choose a pose inside the workspace"
            )
        return q

    def _error(self, q: Vector, position: Vector, rotation: Vector) -> tuple[Vector, Vector]:
        """Weighted pose error [6] and Jacobian [6, 7] at ``q``."""
        mj, data, jacobian = self._mj, self._data, self._jacobian
        data.qpos[:7] = q
        mj.mj_kinematics(self._model, data)
        mj.mj_comPos(self._model, data)
        mj.mj_jacSite(self._model, data, jacobian[:3], jacobian[3:], self._site)
        current = data.site_xmat[self._site].reshape(3, 3)
        error = np.empty(6)
        error[:3] = position - data.site_xpos[self._site]
        error[3:] = _ROTATION_WEIGHT * rotation_vector(mj, rotation @ current.T)
        arm = jacobian[:, :7].copy()
        arm[3:] *= _ROTATION_WEIGHT
        return error, arm


def rotation_vector(mujoco: Any, rotation: Vector) -> Vector:
    """Axis times angle [3] of a rotation matrix [3, 3]."""
    quat, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(rotation).reshape(9))
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


def rotation_from_vector(mujoco: Any, vector: Vector) -> Vector:
    """Rotation matrix [3, 3] that turns by ``|vector|`` about ``vector``."""
    angle = float(np.linalg.norm(vector))
    quat, matrix = np.empty(4), np.empty(9)
    axis = vector / angle if angle > 0 else np.array([0.0, 0.0, 1.0])
    mujoco.mju_axisAngle2Quat(quat, axis, angle)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def joint_step_limit(seconds: float) -> Vector:
    """[7] how far the joints may turn in ``seconds`` at the published speed limits [rad]."""
    return JOINT_SPEED * seconds
