"""Rotations as vectors: the axis times the angle, for speeds and for shortening a turn."""

from __future__ import annotations

import numpy as np
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.types import FloatArray


def rotation_vector(euler: FloatArray) -> FloatArray:
    """Axis times angle of extrinsic-xyz Euler angles.

    Args:
        euler: [3] finite angles [rad].

    Returns:
        [3] unit axis times the angle in [0, pi] [rad].
    """
    matrix = geometry.euler_to_matrix(_tensor(euler)).numpy()
    angle = rotation_angle(euler)
    axis = np.array((matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]))
    if np.linalg.norm(axis) < 1e-7:
        if angle < 1.0:  # no turn: half the antisymmetric part is the vector itself
            return axis / 2.0
        # Half a turn: the axis is in the symmetric part, and its sign is free.
        columns = matrix + np.eye(3)
        axis = columns[:, np.argmax(np.linalg.norm(columns, axis=0))]
    return axis / np.linalg.norm(axis) * angle


def vector_to_euler(vector: FloatArray) -> FloatArray:
    """Extrinsic-xyz Euler angles [3] of a rotation vector [3], both [rad] (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle if angle > 0.0 else vector
    cross = np.array(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)))
    matrix = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return np.asarray(geometry.matrix_to_euler(torch.from_numpy(matrix)).numpy())


def rotation_angle(euler: FloatArray) -> float:
    """Total angle [rad] of a rotation given as extrinsic-xyz Euler angles [3]."""
    return float(geometry.rotation_angle(_tensor(euler)))


def limit_rotation(euler: FloatArray, bound: float) -> FloatArray:
    """The same rotation about the same axis, by at most ``bound`` [rad]."""
    vector = rotation_vector(euler)
    angle = float(np.linalg.norm(vector))
    return euler if angle <= bound else vector_to_euler(vector / angle * bound)


def _tensor(value: FloatArray) -> torch.Tensor:
    return torch.tensor(np.asarray(value, dtype=np.float64))
