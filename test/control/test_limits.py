"""Laws of the limits: whatever goes in, what comes out obeys them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.control.limits import MotionLimits, limit_setpoint, limit_step, pose_distance
from vjepa_ac_planner.control.rotation import limit_rotation, rotation_vector, vector_to_euler
from vjepa_ac_planner.errors import ConfigError, SafetyError
from vjepa_ac_planner.geometry import euler_to_matrix

LIMITS = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
EPS = 1e-9

anything = st.floats(allow_nan=True, allow_infinity=True)
small = st.floats(-0.5, 0.5)
position = st.tuples(*[st.floats(-1.0, 1.5)] * 3)
angles = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)
poses = st.builds(lambda p, e, g: np.array([*p, *e, g]), position, angles, st.floats(0, 1))
numbers7 = st.one_of(
    st.lists(st.one_of(small, anything), min_size=7, max_size=7),
    st.lists(small, min_size=7, max_size=7),
)


def matrix(euler):
    return euler_to_matrix(torch.tensor(np.array(euler, dtype=float))).numpy()


def exponential(vector):
    """The rotation matrix of a rotation vector, by a way of its own."""
    x, y, z = vector
    return torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).numpy()


def obeys(base, target, limits=LIMITS, seconds=LIMITS.step_seconds):
    assert np.isfinite(target).all()
    distance, angle = pose_distance(base, target)
    assert distance <= limits.translation(seconds) + EPS
    assert angle <= limits.rotation(seconds) + 1e-7
    assert abs(target[6] - base[6]) <= limits.gripper(seconds) + EPS
    assert 0.0 <= target[6] <= 1.0
    was, now = limits.outside(base[:3]), limits.outside(target[:3])
    assert now <= was + EPS
    held = np.allclose(target, base, atol=1e-12)
    if was > limits.workspace_slack and not held:
        assert now < was


@settings(max_examples=300, deadline=None)
@given(base=poses, action=numbers7)
def test_no_step_violates_a_limit(base, action):
    target, findings = limit_step(base, action, LIMITS)
    obeys(base, target)
    if any(finding.effect == "hold" for finding in findings):
        np.testing.assert_array_equal(target, base)


@settings(max_examples=300, deadline=None)
@given(previous=poses, target=numbers7, dt=st.one_of(st.floats(0, 1), anything))
def test_no_setpoint_violates_a_speed(previous, target, dt):
    following = limit_setpoint(previous, target, dt, LIMITS)
    seconds = min(dt, LIMITS.step_seconds) if dt > 0 else 0.0
    distance, angle = pose_distance(previous, following)
    assert distance <= LIMITS.max_speed * seconds + EPS
    assert angle <= LIMITS.max_rotation_speed * seconds + 1e-7
    assert abs(following[6] - previous[6]) <= LIMITS.max_gripper_speed * seconds + EPS
    assert LIMITS.outside(following[:3]) <= LIMITS.outside(previous[:3]) + EPS


def test_a_step_within_the_limits_is_left_alone():
    base = np.array([0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, findings = limit_step(base, [0.03, -0.02, 0.01, 0.0, 0.0, 0.1, 0.3], LIMITS)
    assert findings == ()
    np.testing.assert_allclose(target[:3], [0.53, -0.02, 0.31])
    assert target[6] == pytest.approx(0.5)
    np.testing.assert_allclose(matrix(target[3:6]), matrix([0, 0, 0.1]) @ matrix(base[3:6]), atol=1e-12)


def test_long_steps_are_shortened_and_say_so():
    base = np.array([0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, findings = limit_step(base, [0.0, 0.2, 0.0, 0.0, 0.0, 1.0, -2.0], LIMITS)
    np.testing.assert_allclose(target[:3], [0.5, 0.13, 0.3])
    assert list(map(str, findings)) == [
        "max_translation: 0.200 m, allowed 0.130 m (limited)",
        "max_rotation: 1.000 rad, allowed 0.300 rad (limited)",
        "max_gripper_speed: -2.000, allowed 1.000 a step (limited)",
    ]


def test_leaving_the_workspace_is_clipped_and_says_so():
    base = np.array([0.5, 0.25, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, findings = limit_step(base, [0.05, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], LIMITS)
    np.testing.assert_allclose(target[:3], [0.55, 0.3, 0.3])
    assert [str(finding) for finding in findings] == [
        "workspace y: 0.350 m, allowed -0.300 .. 0.300 m (limited)"
    ]


def test_the_rounding_of_a_plan_in_float32_is_cut_without_a_word():
    base = np.array([0.6, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2])
    action = np.array([0.1 + 3e-8, 0, 0, 0, 0, 0, 0])
    assert base[0] + action[0] > 0.7
    target, findings = limit_step(base, action, LIMITS)
    assert (target[0], findings) == (0.7, ())


def test_from_far_outside_only_motion_back_is_let_through():
    base = np.array([0.5, 0.4, 0.3, 3.1, 0.0, -0.7, 0.2])
    back, findings = limit_step(base, [0.02, -0.05, 0, 0, 0, 0, 0], LIMITS)
    np.testing.assert_allclose(back[:3], [0.52, 0.35, 0.3])
    assert all(finding.effect == "limited" for finding in findings)
    for action in ([0.05, 0, 0, 0, 0, 0, 0], [0, 0.05, 0, 0, 0, 0, 0], [0, 0, 0, 0.1, 0, 0, 0]):
        target, findings = limit_step(base, action, LIMITS)
        np.testing.assert_array_equal(target, base)
        assert str(findings[-1]) == "workspace y: 0.400 m, allowed -0.300 .. 0.300 m (hold)"


def test_a_tracking_error_outside_lets_the_arm_slide_along_the_wall_but_not_further_out():
    base = np.array([0.5, 0.302, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, _ = limit_step(base, [0.05, 0.05, 0, 0, 0, 0, 0], LIMITS)
    np.testing.assert_allclose(target[:3], [0.55, 0.3, 0.3])


def test_a_step_back_from_a_tracking_error_is_no_longer_than_any_other():
    short = replace(LIMITS, max_translation=0.005)
    base = np.array([0.5, 0.308, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, _ = limit_step(base, [0.005, 0, 0, 0, 0, 0, 0], short)
    assert np.linalg.norm(target[:3] - base[:3]) == pytest.approx(0.005)
    assert 0.3 < target[1] < 0.308


def test_an_arm_that_settles_low_is_not_led_below_the_floor():
    """Each step begins at the measured pose: what is kept of every sag adds up."""
    pose = np.array([0.5, 0.0, 0.104, 3.1, 0.0, -0.7, 0.2])
    for i in range(60):
        target, _ = limit_step(pose, [0.01 * (-1) ** i, 0, 0, 0, 0, 0, 0], LIMITS)
        pose = target - [0, 0, 0.004, 0, 0, 0, 0]
    assert target[2] == pytest.approx(0.1) and pose[2] == pytest.approx(0.096)


@pytest.mark.parametrize("action", [[np.nan] + [0] * 6, [np.inf] + [0] * 6, [0] * 6, "up", None])
def test_what_is_no_action_holds(action):
    base = np.array([0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2])
    target, (finding,) = limit_step(base, action, LIMITS)
    np.testing.assert_array_equal(target, base)
    assert str(finding) == "action: not 7 finite numbers, allowed 7 finite numbers (hold)"


def test_without_a_pose_there_is_no_command():
    for function in (
        lambda b: limit_step(b, [0] * 7, LIMITS),
        lambda b: limit_setpoint(b, [0] * 7, 0.02, LIMITS),
    ):
        with pytest.raises(SafetyError, match=r"expected 7 finite numbers .* stop the arm by other means"):
            function([np.nan] * 7)


def test_a_setpoint_stream_arrives():
    pose = np.array([0.4, 0.0, 0.3, 3.0, 0.1, -0.7, 0.0])
    target = np.array([0.6, 0.2, 0.2, 2.8, 0.0, -0.5, 1.0])
    for _ in range(60):
        pose = limit_setpoint(pose, target, 0.02, LIMITS)
    np.testing.assert_allclose(pose, target, atol=1e-9)


def test_a_stream_that_stalled_does_not_jump():
    slow = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6), max_speed=0.1, max_gripper_speed=1.0)
    pose = np.array([0.4, 0.0, 0.3, 3.0, 0.1, -0.7, 0.0])
    after = limit_setpoint(pose, pose + [0.2, 0, 0, 0, 0, 0, 1], 10.0, slow)
    np.testing.assert_allclose(after, pose + [0.025, 0, 0, 0, 0, 0, 0.25], atol=1e-9)


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan")])
def test_no_time_no_motion(dt):
    pose = np.array([0.4, 0.0, 0.3, 3.0, 0.1, -0.7, 0.0])
    np.testing.assert_array_equal(limit_setpoint(pose, pose + 0.1, dt, LIMITS), pose)


@settings(max_examples=100, deadline=None)
@given(euler=angles, bound=st.floats(0.01, 3.0))
def test_a_limited_rotation_keeps_its_axis(euler, bound):
    vector = rotation_vector(np.array(euler))
    np.testing.assert_allclose(exponential(vector), matrix(euler), atol=1e-7)
    assert np.linalg.norm(vector) <= math.pi + 1e-9
    limited = limit_rotation(np.array(euler), bound)
    angle = float(np.linalg.norm(vector))
    shorter = vector * min(1.0, bound / angle) if angle > 0 else vector
    np.testing.assert_allclose(matrix(limited), exponential(shorter), atol=1e-7)


@pytest.mark.parametrize(
    "half_turn", [(math.pi, 0, 0), (0, 0, math.pi), (math.pi, 0, math.pi), (0, math.pi, 0)]
)
def test_half_turns(half_turn):
    vector = rotation_vector(np.array(half_turn, dtype=float))
    assert np.linalg.norm(vector) == pytest.approx(math.pi)
    np.testing.assert_allclose(exponential(vector), matrix(half_turn), atol=1e-9)
    np.testing.assert_allclose(matrix(vector_to_euler(vector)), matrix(half_turn), atol=1e-9)


def test_what_the_configuration_refuses():
    box = {"workspace_low": [0.3, -0.3, 0.1], "workspace_high": [0.7, 0.3, 0.6]}
    assert from_mapping(MotionLimits, box) == LIMITS
    with pytest.raises(ConfigError, match=r"workspace z: low 0.7 m must be below high 0.6 m"):
        from_mapping(MotionLimits, {**box, "workspace_low": [0.3, -0.3, 0.7]})
    with pytest.raises(ConfigError, match="missing workspace_low, workspace_high"):
        from_mapping(MotionLimits, {})
    with pytest.raises(ConfigError, match=r"max_speed: received 5.0 m/s, allowed 0.001 .. 1.7 m/s"):
        from_mapping(MotionLimits, {**box, "max_speed": 5.0})
