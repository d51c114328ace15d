"""Poses: the only place of the package that adds or subtracts them.

A state ``s`` is ``[x, y, z, rx, ry, rz, g]``: position [m] and extrinsic-xyz Euler angles [rad] of the
end effector in the robot base frame, then gripper closedness (0 open, 1 closed). An action ``a`` has
the same layout and is the change over one step; its rotation multiplies from the left, in the base
frame: ``R' = R(a) @ R``. (V-JEPA 2, arXiv 2506.09985, section 3.1.)

Everything is batched torch over any leading dimensions, on the tensor's device, float32 or float64 in
and the same out, differentiable, and free of host synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError


def euler_to_matrix(euler: Tensor) -> Tensor:
    """Rotation matrices ``Rz(rz) @ Ry(ry) @ Rx(rx)`` of extrinsic-xyz Euler angles.

    Args:
        euler: [..., 3] angles about the fixed x, y and z axes [rad].

    Returns:
        [..., 3, 3] rotation matrices.

    Raises:
        InputError: the last dimension is not 3, or the dtype is neither float32 nor float64.
    """
    _check("euler", euler, 3)
    cx, cy, cz = torch.cos(euler).unbind(-1)
    sx, sy, sz = torch.sin(euler).unbind(-1)
    cz_sy, sz_sy = cz * sy, sz * sy
    rows = (
        cz * cy, cz_sy * sx - sz * cx, cz_sy * cx + sz * sx,
        sz * cy, sz_sy * sx + cz * cx, sz_sy * cx - cz * sx,
        -sy, cy * sx, cy * cx,
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """Extrinsic-xyz Euler angles of rotation matrices: the inverse of :func:`euler_to_matrix`.

    ``rz`` is found first; ``ry`` and ``rx`` are then read from ``Rz(-rz) @ R``. So the three angles
    always recompose to the matrix they came from, also close to gimbal lock (``ry = +-pi/2``), where
    ``rz`` alone is undetermined. At the lock itself ``rz`` is 0, and so is its gradient.

    Args:
        matrix: [..., 3, 3] rotation matrices.

    Returns:
        [..., 3] angles [rad], ``rx`` and ``rz`` in [-pi, pi], ``ry`` in [-pi/2, pi/2].

    Raises:
        InputError: the last dimensions are not 3x3, or the dtype is neither float32 nor float64.
    """
    _check("matrix", matrix, 3)
    if matrix.ndim < 2 or matrix.shape[-2] != 3:
        raise InputError(f"matrix: expected shape [..., 3, 3], received {tuple(matrix.shape)}")
    r00, r01, r02 = matrix[..., 0, :].unbind(-1)
    r10, r11, r12 = matrix[..., 1, :].unbind(-1)
    r20 = matrix[..., 2, 0]
    # Below rounding error the direction (r00, r10) is noise: 0 is as good an rz as any, and replacing
    # the arguments before atan2 keeps the gradient finite.
    locked = torch.maximum(r00.abs(), r10.abs()) < torch.finfo(matrix.dtype).eps
    rz = torch.atan2(torch.where(locked, 0.0, r10), torch.where(locked, 1.0, r00))
    cz, sz = torch.cos(rz), torch.sin(rz)
    ry = torch.atan2(-r20, cz * r00 + sz * r10)
    rx = torch.atan2(sz * r02 - cz * r12, cz * r11 - sz * r01)
    return torch.stack((rx, ry, rz), dim=-1)


def step(state: Tensor, action: Tensor) -> Tensor:
    """The state that follows ``state`` when ``action`` is carried out exactly.

    Args:
        state: [..., 7] current states.
        action: [..., 7] changes over one step; leading dimensions broadcast against ``state``.

    Returns:
        [..., 7] next states; the gripper is clipped to [0, 1], as at training.

    Raises:
        InputError: the last dimension is not 7, or the dtype is neither float32 nor float64.
    """
    _check("state", state, 7)
    _check("action", action, 7)
    position = state[..., :3] + action[..., :3]
    rotation = euler_to_matrix(action[..., 3:6]) @ euler_to_matrix(state[..., 3:6])
    gripper = (state[..., 6:] + action[..., 6:]).clamp(0.0, 1.0)
    return torch.cat((position, matrix_to_euler(rotation), gripper), dim=-1)


def diff(state: Tensor, next_state: Tensor) -> Tensor:
    """The action that leads from ``state`` to ``next_state``: the inverse of :func:`step`.

    Args:
        state: [..., 7] states.
        next_state: [..., 7] the states one step later; leading dimensions broadcast.

    Returns:
        [..., 7] actions, with ``R(a) = R' @ R.T``.

    Raises:
        InputError: the last dimension is not 7, or the dtype is neither float32 nor float64.
    """
    _check("state", state, 7)
    _check("next_state", next_state, 7)
    rotation = euler_to_matrix(next_state[..., 3:6]) @ euler_to_matrix(state[..., 3:6]).mT
    position = next_state[..., :3] - state[..., :3]
    gripper = next_state[..., 6:] - state[..., 6:]
    return torch.cat((position, matrix_to_euler(rotation), gripper), dim=-1)


def integrate(state: Tensor, actions: Tensor) -> Tensor:
    """All states along sequences of actions, carried out exactly.

    Args:
        state: [..., 7] initial states.
        actions: [..., H, 7] action sequences; leading dimensions broadcast against ``state``.

    Returns:
        [..., H + 1, 7] the initial state and the state after each action.

    Raises:
        InputError: the last dimension is not 7, or the dtype is neither float32 nor float64.
    """
    _check("actions", actions, 7)
    states = [state.expand(*torch.broadcast_shapes(state.shape[:-1], actions.shape[:-2]), 7)]
    for action in actions.unbind(-2):
        states.append(step(states[-1], action))
    return torch.stack(states, dim=-2)


def rotation_angle(euler: Tensor) -> Tensor:
    """How far a rotation turns in total, whatever its axis.

    Args:
        euler: [..., 3] extrinsic-xyz Euler angles [rad], such as the rotation of an action.

    Returns:
        [...] the angle about the rotation's own axis [rad], in [0, pi].

    Raises:
        InputError: the last dimension is not 3, or the dtype is neither float32 nor float64.
    """
    matrix = euler_to_matrix(euler)
    # atan2 of sine and cosine is accurate at both ends; acos of the trace alone loses half the digits.
    axis = torch.stack(
        (
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ),
        dim=-1,
    )
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(axis, dim=-1), trace - 1.0)


def _check(name: str, value: Tensor, size: int) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{name}: expected float32 or float64, received {value.dtype}; "
            "poses lose centimetres in half precision, convert first"
        )
    if value.ndim < 1 or value.shape[-1] != size:
        raise InputError(f"{name}: expected shape [..., {size}], received {tuple(value.shape)}")
