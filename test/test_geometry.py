"""Pose arithmetic against reference numbers and its own laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner import geometry
from vjepa_ac_planner.errors import InputError

GOLDEN = np.load(Path(__file__).parent / "data" / "golden.npz")

angle = st.floats(-math.pi, math.pi)
pitch = st.one_of(
    st.floats(-math.pi / 2, math.pi / 2),
    st.sampled_from([math.pi / 2, -math.pi / 2, math.pi / 2 - 1e-9, 1e-6 - math.pi / 2]),
)


def golden(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_and_diff_match_the_reference(dtype: torch.dtype) -> None:
    pose, action, following = (golden(f"kin_{n}", dtype) for n in ("pose", "action", "next"))
    stepped = geometry.step(pose, action)
    assert stepped.dtype == dtype
    torch.testing.assert_close(stepped, following, atol=1e-5, rtol=0)
    torch.testing.assert_close(geometry.diff(pose, following), golden("kin_diff", dtype), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    euler=st.tuples(angle, pitch, angle),
    turn=st.tuples(angle, st.floats(-1.5, 1.5), angle),
    shift=st.tuples(*[st.floats(-0.1, 0.1)] * 3),
    gripper=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_diff_inverts_step(euler, turn, shift, gripper) -> None:
    state = torch.tensor([0.4, 0.0, 0.3, *euler, gripper[0]], dtype=torch.float64)
    action = torch.tensor([*shift, *turn, gripper[1] - gripper[0]], dtype=torch.float64)
    back = geometry.diff(state, geometry.step(state, action))
    torch.testing.assert_close(back[:3], action[:3], atol=1e-12, rtol=0)
    torch.testing.assert_close(back[6:], action[6:], atol=1e-12, rtol=0)
    # Compared as rotations: pi and -pi are one angle.
    torch.testing.assert_close(
        geometry.euler_to_matrix(back[3:6]), geometry.euler_to_matrix(action[3:6]), atol=1e-9, rtol=0
    )


@settings(max_examples=60, deadline=None)
@given(euler=st.tuples(angle, pitch, angle), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_angles_recompose_to_their_matrix_even_at_gimbal_lock(euler, dtype) -> None:
    matrix = geometry.euler_to_matrix(torch.tensor(euler, dtype=dtype))
    again = geometry.euler_to_matrix(geometry.matrix_to_euler(matrix))
    torch.testing.assert_close(again, matrix, atol=20 * torch.finfo(dtype).eps, rtol=0)


def test_at_gimbal_lock_angles_and_gradients_are_finite() -> None:
    matrix = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], requires_grad=True)
    euler = geometry.matrix_to_euler(matrix)
    torch.testing.assert_close(euler, torch.tensor([0, math.pi / 2, 0]))
    euler.sum().backward()
    assert matrix.grad is not None and matrix.grad.isfinite().all()


def test_rotation_multiplies_from_the_left_in_the_base_frame() -> None:
    quarter = math.pi / 2
    state = torch.tensor([0.5, 0, 0.3, quarter, 0, 0, 0])
    turned = geometry.step(state, torch.tensor([0, 0, 0, 0, 0, quarter, 0]))
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # Rz(90) @ Rx(90)
    torch.testing.assert_close(geometry.euler_to_matrix(turned[3:6]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned[:3], state[:3])


def test_the_gripper_is_clipped() -> None:
    state = torch.zeros(2, 7)
    state[:, 6] = 0.5
    action = torch.zeros(2, 7)
    action[:, 6] = torch.tensor([0.75, -0.75])
    assert geometry.step(state, action)[:, 6].tolist() == [1.0, 0.0]


def test_integrate_is_repeated_step_and_broadcasts() -> None:
    state = golden("kin_pose")[0]
    actions = golden("kin_action")[:12].reshape(4, 3, 7)
    states = geometry.integrate(state, actions)
    assert states.shape == (4, 4, 7)
    assert torch.equal(states[:, 0], state.expand(4, 7))
    for h in range(3):
        assert torch.equal(states[:, h + 1], geometry.step(states[:, h], actions[:, h]))


@pytest.mark.parametrize("size", [1e-7, 0.3, 2.0, math.pi])
def test_rotation_angle_is_the_angle_about_the_axis(size: float) -> None:
    for axis in range(3):
        euler = torch.zeros(3, dtype=torch.float64)
        euler[axis] = size
        torch.testing.assert_close(
            geometry.rotation_angle(euler), torch.tensor(size, dtype=torch.float64), rtol=1e-9, atol=1e-15
        )


def test_wrong_dtype_and_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"state: expected float32 or float64, received torch.bfloat16"):
        geometry.step(torch.zeros(7, dtype=torch.bfloat16), torch.zeros(7))
    with pytest.raises(InputError, match=r"action: expected shape \[\.\.\., 7\], received \(6,\)"):
        geometry.step(torch.zeros(7), torch.zeros(6))
    with pytest.raises(InputError, match=r"matrix: expected shape \[\.\.\., 3, 3\]"):
        geometry.matrix_to_euler(torch.zeros(2, 3))
