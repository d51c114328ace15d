"""Poses of messages and states of the model: quaternions in, state vectors out, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError

Vector = npt.NDArray[np.float64]
Offset = tuple[float, float, float, float, float, float, float]
"""x, y, z [m] and quaternion x, y, z, w of one frame in another."""

HAND_TCP_TO_LINK8: Offset = (0.0, 0.0, -0.1034, 0.0, 0.0, 0.3826834323650898, 0.9238795325112867)
"""Link8 in the hand's TCP frame, which Franka's ``current_pose`` and ``o_t_ee`` show unless they were told
otherwise: the hand is mounted at -45 degrees about z and its TCP lies 0.1034 m further along z."""


def quaternion_to_matrix(quaternion: Any) -> Vector:
    """[3, 3] rotation of a quaternion x, y, z, w.

    Raises:
        InputError: not finite, or its length is not 1 within 1 % (an unset one is all zero).
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = float(np.sqrt(q @ q)) if np.abs(q).max() < 10 else np.nan  # NaN is not below 10 either
    if not abs(norm - 1.0) <= 0.01:
        raise InputError(f"pose: the quaternion must have length 1, received {q.tolist()}")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def checked_rotation(matrix: Vector) -> Vector:
    """A matrix [3, 3], if it is a rotation.

    Raises:
        InputError: not within 1 % (an unset one is all zero), or mirrored.
    """
    # NaN is not near anything either.
    if not (np.allclose(matrix.T @ matrix, np.eye(3), rtol=0, atol=0.02) and np.linalg.det(matrix) > 0):
        raise InputError(
            f"pose: the rotation must be orthonormal and right-handed, received {matrix.tolist()}"
        )
    return matrix


def matrix_to_quaternion(matrix: Vector) -> Vector:
    """[4] quaternion x, y, z, w (w >= 0) of a rotation matrix [3, 3]."""
    m = matrix
    # The largest of the four squares is divided by, so that nothing small is.
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    largest = int(np.argmax(squares))
    s = np.sqrt(squares[largest])
    sums = {
        0: (s, (m[1, 0] + m[0, 1]) / s, (m[2, 0] + m[0, 2]) / s, (m[2, 1] - m[1, 2]) / s),
        1: ((m[1, 0] + m[0, 1]) / s, s, (m[2, 1] + m[1, 2]) / s, (m[0, 2] - m[2, 0]) / s),
        2: ((m[2, 0] + m[0, 2]) / s, (m[2, 1] + m[1, 2]) / s, s, (m[1, 0] - m[0, 1]) / s),
        3: ((m[2, 1] - m[1, 2]) / s, (m[0, 2] - m[2, 0]) / s, (m[1, 0] - m[0, 1]) / s, s),
    }
    q = np.array(sums[largest]) / 2
    return -q if q[3] < 0 else q


def state_pose(position: Any, rotation: Vector, offset: Offset | None = None) -> Vector:
    """[6] position [m] and Euler angles [rad] of the model's frame.

    Args:
        position: [3] of the recorded frame in the base frame [m].
        rotation: [3, 3] of the recorded frame.
        offset: the model's frame in the recorded one; None if they are the same.

    Raises:
        InputError: not finite.
    """
    import torch

    from vjepa_ac_planner.geometry import matrix_to_euler

    place = np.asarray(position, dtype=np.float64)
    if offset is not None:
        place = place + rotation @ np.asarray(offset[:3])
        rotation = rotation @ quaternion_to_matrix(offset[3:])
    if not (np.isfinite(place).all() and np.isfinite(rotation).all()):
        raise InputError(f"pose: every value must be finite, received position {place.tolist()}")
    return np.concatenate([place, matrix_to_euler(torch.from_numpy(np.array(rotation))).numpy()])


def state_quaternion(euler: Any) -> Vector:
    """[4] quaternion x, y, z, w of a state's Euler angles [rad]."""
    import torch

    from vjepa_ac_planner.geometry import euler_to_matrix

    angles = torch.from_numpy(np.array(euler, dtype=np.float64))
    return matrix_to_quaternion(euler_to_matrix(angles).numpy())
