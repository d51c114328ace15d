"""The plain-number pose functions against the batched ones they stand in for."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner import geometry
from vjepa_ac_planner.control import rotation

angle = st.one_of(st.floats(-math.pi, math.pi), st.sampled_from((0.0, math.pi / 2, -math.pi / 2, math.pi)))
state = st.tuples(*[st.floats(-1.0, 1.0)] * 3, angle, angle, angle, st.floats(0.0, 1.0)).map(np.array)


def batched(function, *values):
    return function(*(torch.from_numpy(value.copy()) for value in values)).numpy()


@given(state)
def test_matrices_and_angles_agree(pose):
    matrix = batched(geometry.euler_to_matrix, pose[3:6])
    np.testing.assert_allclose(rotation.euler_to_matrix(pose[3:6]), matrix, atol=1e-15)
    np.testing.assert_allclose(
        rotation.euler_to_matrix(rotation.matrix_to_euler(matrix)), matrix, atol=1e-14
    )
    expected = float(batched(geometry.rotation_angle, pose[3:6]))
    assert math.isclose(rotation.rotation_angle(pose[3:6]), expected, abs_tol=1e-14)


@given(state, state)
def test_steps_and_differences_agree(first, second):
    """Compared as rotations: at the lock two sets of angles are one rotation."""
    for ours, theirs in ((rotation.step, geometry.step), (rotation.pose_difference, geometry.diff)):
        got, wanted = ours(first, second), batched(theirs, first, second)
        np.testing.assert_allclose(got[[0, 1, 2, 6]], wanted[[0, 1, 2, 6]], atol=1e-15)
        np.testing.assert_allclose(
            rotation.euler_to_matrix(got[3:6]), rotation.euler_to_matrix(wanted[3:6]), atol=1e-14
        )


@given(state, state)
def test_a_difference_leads_there(first, second):
    reached = rotation.step(first, rotation.pose_difference(first, second))
    np.testing.assert_allclose(reached[[0, 1, 2, 6]], second[[0, 1, 2, 6]], atol=1e-12)
    np.testing.assert_allclose(
        rotation.euler_to_matrix(reached[3:6]), rotation.euler_to_matrix(second[3:6]), atol=1e-12
    )
