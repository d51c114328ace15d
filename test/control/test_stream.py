"""Laws of the setpoint stream: whatever commands, states and times come, it moves within the limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.limits import MotionLimits, pose_distance
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.control.stream import SetpointStream
from vjepa_ac_planner.types import Command, RobotState

LIMITS = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
CONFIG = SafetyConfig(LIMITS)
HOME = np.array((0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2))
DT = 0.02


def stream(config=CONFIG):
    return SetpointStream(SafetyLayer(config))


def state(stamp, pose=HOME):
    return RobotState(np.array(pose), stamp)


def move(stamp, offset=(0.05, 0, 0, 0, 0, 0.2, 0.3), kind="move"):
    return Command(kind, HOME + offset, 0.25, stamp, "" if kind == "move" else "because")


def run(setpoints, command, seconds, start=100.0, **kwargs):
    times = start + DT * np.arange(1, round(seconds / DT) + 1)
    return [setpoints.next(command, state(now), now, DT, **kwargs) for now in times]


def test_nothing_is_sent_before_there_is_a_fresh_state():
    setpoints = stream()
    assert setpoints.next(move(100.0), None, 100.0, DT) is None
    assert setpoints.next(move(100.0), state(99.0), 100.0, DT) is None
    assert setpoints.next(None, state(100.0), 100.0, DT) is not None


def test_it_begins_at_the_measured_pose_and_holds_there():
    first = stream().next(None, state(100.0), 100.0, DT)
    assert (first.kind, first.reason) == ("hold", "no command yet")
    np.testing.assert_array_equal(first.pose, HOME)
    np.testing.assert_array_equal(first.twist, np.zeros(6))


def test_a_step_becomes_a_smooth_motion_that_ends_at_the_target():
    poses = [s.pose for s in run(stream(), move(100.0), 0.3)]
    way = np.array([pose[0] for pose in poses]) - HOME[0]
    steps = np.diff(np.concatenate(([0.0], way)))
    assert (steps >= 0).all() and steps[0] < steps[4] > steps[9]  # slow, fast, slow
    assert steps.max() <= LIMITS.max_speed * DT + 1e-9
    np.testing.assert_allclose(
        poses[10], HOME + (0.05, 0, 0, 0, 0, 0.2, 0.3), atol=1e-9
    )  # at 0.22 of 0.25 s
    np.testing.assert_allclose(poses[-1], poses[10], atol=1e-12)


def test_a_new_command_on_the_way_is_followed_from_there():
    """The way to a target is computed once a command: another command is another way."""
    setpoints, offset = stream(), np.array((-0.04, 0.03, 0, 0, 0, -0.1, 0.1))
    turned = run(setpoints, move(100.0), 0.1)[-1].pose
    assert pose_distance(turned, HOME)[0] > 0.01
    poses = [s.pose for s in run(setpoints, move(100.1, offset), 0.3, start=100.1)]
    assert pose_distance(poses[0], turned)[0] <= LIMITS.max_speed * DT + 1e-9
    np.testing.assert_allclose(poses[-1], HOME + offset, atol=1e-9)


def test_without_twists_the_poses_are_the_same():
    both = SetpointStream(SafetyLayer(CONFIG)), SetpointStream(SafetyLayer(CONFIG), twists=False)
    velocities, poses = (run(setpoints, move(100.0), 0.3) for setpoints in both)
    assert [s.kind for s in velocities] == [s.kind for s in poses]
    np.testing.assert_array_equal([s.pose for s in velocities], [s.pose for s in poses])
    assert max(np.abs(s.twist).max() for s in velocities) > 0.05
    assert not any(s.twist.any() for s in poses)


def test_a_plan_that_grows_too_old_ends_in_a_hold_where_the_stream_is():
    setpoints = stream()
    run(setpoints, move(100.0), 0.1)
    late = run(setpoints, move(100.0), 0.2, start=101.05)
    assert {s.kind for s in late} == {"hold"}
    assert late[0].reason.startswith("max_plan_age: 1.0")
    np.testing.assert_array_equal(late[0].pose, late[-1].pose)


def test_when_the_state_stops_it_holds_where_it_is_and_goes_on_when_it_comes_back():
    setpoints = stream()
    run(setpoints, move(100.0), 0.06)
    frozen = state(100.06)
    # Fresh for 0.2 s, stale after; a command of the time before is not taken up again.
    seen = [setpoints.next(move(100.0), frozen, 100.06 + DT * k, DT) for k in range(1, 25)]
    assert [s.kind for s in seen][:9] == ["move"] * 9 and {s.kind for s in seen[11:]} == {"hold"}
    assert seen[-1].reason.startswith("max_state_age: 0.4")
    assert (
        setpoints.next(move(100.0), state(100.58), 100.58, DT).kind == "move"
    )  # a new one: not held against
    again = run(setpoints, replace(move(100.6), target=HOME), 0.3, start=100.6)
    assert {s.kind for s in again} == {"move"}
    np.testing.assert_allclose(again[-1].pose, HOME, atol=1e-9)


@pytest.mark.parametrize(
    "status",
    [
        RobotStatus(mode="reflex"),
        RobotStatus(errors=("cartesian_reflex",)),
        RobotStatus(command_publishers=2),
    ],
)
def test_a_robot_that_does_not_listen_is_followed_and_nothing_jumps_when_it_listens_again(status):
    setpoints = stream()
    command = move(100.0)
    run(setpoints, command, 0.06)
    guided = HOME + (0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0)  # somebody moves the arm by hand
    followed = setpoints.next(command, state(100.08, guided), 100.08, DT, status)
    assert followed.kind == "follow" and "allowed" in followed.reason
    np.testing.assert_array_equal(followed.pose[:6], guided[:6])
    np.testing.assert_array_equal(followed.twist, np.zeros(6))
    back = setpoints.next(command, state(100.10, guided), 100.10, DT)
    assert back.kind == "hold"  # the old command is over
    np.testing.assert_array_equal(back.pose[:6], guided[:6])


def test_a_hold_command_says_why():
    setpoint = stream().next(move(100.0, kind="hold"), state(100.0), 100.0, DT)
    assert (setpoint.kind, setpoint.reason) == ("hold", "because")
    np.testing.assert_array_equal(setpoint.twist, np.zeros(6))


def test_while_time_stands_still_no_twist_is_sent_again():
    """A simulation that has died leaves its last time behind: nothing would ever grow old."""
    setpoints = stream()
    setpoints.next(None, state(100.0), 100.0, DT)
    assert np.abs(setpoints.next(move(100.0), state(100.02), 100.02, DT).twist).max() > 0.1
    stopped = setpoints.next(move(100.0), state(100.02), 100.02, 0.0)
    np.testing.assert_array_equal(stopped.twist, np.zeros(6))


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf])
def test_time_that_does_not_run_moves_nothing(dt):
    setpoints = stream()
    setpoints.next(None, state(100.0), 100.0, DT)
    moved = setpoints.next(move(100.0), state(100.0), 100.0, dt)
    if math.isinf(dt):  # a stall counts as one step of the limits at most
        assert pose_distance(HOME, moved.pose)[0] <= LIMITS.max_translation
    else:
        np.testing.assert_array_equal(moved.pose, HOME)


anything = st.floats(allow_nan=True, allow_infinity=True)
poses = st.tuples(
    *[st.floats(-0.2, 0.9)] * 3, *[st.floats(-math.pi, math.pi)] * 3, st.floats(0.0, 1.0)
).map(np.array)
events = st.tuples(
    st.one_of(st.none(), st.tuples(poses, st.floats(-0.3, 1.5), st.sampled_from(("move", "hold")))),
    st.one_of(st.none(), st.tuples(poses, st.floats(-0.2, 0.5))),
    st.one_of(st.floats(-0.1, 0.3), anything),
    st.sampled_from(
        (None, RobotStatus(), RobotStatus(mode="guiding"), RobotStatus(errors=("joint_limit",)))
    ),
)


@given(st.lists(events, min_size=1, max_size=12))
def test_no_setpoint_leaves_the_limits_whatever_comes(history):
    setpoints, now, previous = stream(), 100.0, None
    for command, seen, dt, status in history:
        now += dt if abs(dt) < 1e9 else 0.0  # a sum of larger ones is no stamp
        command = command and Command(command[2], command[0], 0.25, now - command[1])
        seen = seen and RobotState(seen[0], now - seen[1])
        setpoint = setpoints.next(command, seen, now, dt, status)
        if setpoint is None:
            assert previous is None
            continue
        assert np.isfinite(setpoint.pose).all() and np.isfinite(setpoint.twist).all()
        if setpoint.kind == "follow" or previous is None:
            np.testing.assert_array_equal(setpoint.pose[:6], seen.vector[:6])
        else:
            seconds = min(dt, LIMITS.step_seconds) if dt > 0.0 else 0.0
            distance, angle = pose_distance(previous, setpoint.pose)
            assert distance <= LIMITS.translation(seconds) + 1e-9
            assert angle <= LIMITS.rotation(seconds) + 1e-6
            # Never further out of the workspace than it was.
            assert LIMITS.outside(setpoint.pose[:3]) <= LIMITS.outside(previous[:3]) + 1e-9
        if setpoint.kind != "move":
            np.testing.assert_array_equal(setpoint.twist, np.zeros(6))
            assert setpoint.reason or command.kind == "hold"
        assert np.linalg.norm(setpoint.twist[:3]) <= LIMITS.max_speed + 1e-9
        previous = setpoint.pose
