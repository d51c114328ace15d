"""One pose at a time, in plain float64: the same formulas as :mod:`vjepa_ac_planner.geometry`.

There they are batched tensor operations, of which a single pose needs dozens at some microseconds each;
a setpoint stream that runs 50 times a second beside a planner cannot spend that. A test holds the two
to each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vjepa_ac_planner.types import FloatArray

_EPS = 2.0**-52


def euler_to_matrix(euler: Sequence[float] | FloatArray) -> FloatArray:
    """[3, 3] rotation ``Rz @ Ry @ Rx`` of extrinsic-xyz Euler angles [3] [rad]."""
    rx, ry, rz = map(float, euler)
    cx, cy, cz, sx, sy, sz = *map(math.cos, (rx, ry, rz)), *map(math.sin, (rx, ry, rz))
    return np.array(
        (
            (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
            (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
            (-sy, cy * sx, cy * cx),
        )
    )


def matrix_to_euler(matrix: FloatArray) -> FloatArray:
    """[3] extrinsic-xyz Euler angles [rad] of a rotation [3, 3]; see geometry for the lock."""
    (r00, r01, r02), (r10, r11, r12), (r20, _, _) = matrix.tolist()
    rz = 0.0 if max(abs(r00), abs(r10)) < _EPS else math.atan2(r10, r00)
    cz, sz = math.cos(rz), math.sin(rz)
    ry = math.atan2(-r20, cz * r00 + sz * r10)
    rx = math.atan2(sz * r02 - cz * r12, cz * r11 - sz * r01)
    return np.array((rx, ry, rz))


def step(state: FloatArray, action: FloatArray) -> FloatArray:
    """[7] the state after an action [7] is carried out exactly."""
    rotation = euler_to_matrix(action[3:6]) @ euler_to_matrix(state[3:6])
    gripper = min(max(float(state[6]) + float(action[6]), 0.0), 1.0)
    return np.concatenate((state[:3] + action[:3], matrix_to_euler(rotation), (gripper,)))


def pose_difference(state: FloatArray, other: FloatArray) -> FloatArray:
    """The action [7] that leads from one pose [7] to another."""
    state, other = np.asarray(state, dtype=np.float64), np.asarray(other, dtype=np.float64)
    rotation = euler_to_matrix(other[3:6]) @ euler_to_matrix(state[3:6]).T
    return np.concatenate((other[:3] - state[:3], matrix_to_euler(rotation), other[6:] - state[6:]))


def rotation_vector(euler: FloatArray) -> FloatArray:
    """Axis times angle of extrinsic-xyz Euler angles.

    Args:
        euler: [3] finite angles [rad].

    Returns:
        [3] unit axis times the angle in [0, pi] [rad].
    """
    matrix = euler_to_matrix(euler)
    twice_sine = _axis(matrix)  # along the axis
    length = math.hypot(*twice_sine)
    angle = math.atan2(length, float(matrix.trace()) - 1.0)
    if length < 1e-7:
        if angle < 1.0:  # no turn: half the antisymmetric part is the vector itself
            return twice_sine / 2.0
        # Half a turn: the axis is in the symmetric part, and its sign is free.
        columns = matrix + np.eye(3)
        axis = columns[:, np.argmax(np.linalg.norm(columns, axis=0))]
        return np.asarray(axis / np.linalg.norm(axis) * angle)
    return twice_sine * (angle / length)


def vector_to_euler(vector: FloatArray) -> FloatArray:
    """Extrinsic-xyz Euler angles [3] of a rotation vector [3], both [rad] (Rodrigues' formula)."""
    angle = math.hypot(*vector)
    x, y, z = vector / angle if angle > 0.0 else vector
    cross = np.array(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)))
    return matrix_to_euler(np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross)


def rotation_angle(euler: FloatArray) -> float:
    """Total angle [rad] of a rotation given as extrinsic-xyz Euler angles [3]."""
    matrix = euler_to_matrix(euler)
    return math.atan2(math.hypot(*_axis(matrix)), float(matrix.trace()) - 1.0)


def limit_rotation(euler: FloatArray, bound: float) -> FloatArray:
    """The same rotation about the same axis, by at most ``bound`` [rad]."""
    vector = rotation_vector(euler)
    angle = math.hypot(*vector)
    return euler if angle <= bound else vector_to_euler(vector / angle * bound)


def _axis(matrix: FloatArray) -> FloatArray:
    """[3] twice the sine of the angle times the axis: the antisymmetric part."""
    (_, r01, r02), (r10, _, r12), (r20, r21, _) = matrix.tolist()
    return np.array((r21 - r12, r02 - r20, r10 - r01))
