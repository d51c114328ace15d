"""Frames: laws of the conversion, one case computed by hand, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner import geometry
from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.ros.frames import (
    FrameChain,
    FramesConfig,
    StaticTransform,
    invert,
    matrix_to_pose,
    pose_to_matrix,
)

QUARTER, EIGHTH = math.pi / 2, math.pi / 4
HAND = {
    "hand": StaticTransform("link8", rpy=(0.0, 0.0, -EIGHTH)),
    "hand_tcp": StaticTransform("hand", xyz=(0.0, 0.0, 0.1034)),
}


def chain(state="hand_tcp", command="hand_tcp", **options):
    return FrameChain(FramesConfig("link0", "link8", state, command, HAND, **options))


STAMP = Time(sec=3, nanosec=500)


def stamped(xyz=(0.5, 0.0, 0.3), xyzw=(1.0, 0.0, 0.0, 0.0), frame_id="link0"):
    message = PoseStamped(pose=Pose(position=Point(**dict(zip("xyz", xyz, strict=True)))))
    message.pose.orientation = Quaternion(**dict(zip("xyzw", xyzw, strict=True)))
    message.header.frame_id, message.header.stamp = frame_id, STAMP
    return message


def rotation(euler):
    return geometry.euler_to_matrix(torch.tensor(np.array(euler, dtype=float))).numpy()


angle = st.floats(-math.pi, math.pi)
positions = st.tuples(*[st.floats(-1.0, 1.0)] * 3)
states = st.builds(
    lambda p, e, g: np.array([*p, *e, g]),
    positions,
    st.tuples(angle, st.one_of(st.floats(-1.5, 1.5), st.sampled_from([QUARTER, -QUARTER])), angle),
    st.floats(0, 1),
)
quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .filter(lambda q: math.hypot(*q) > 0.1)
    .map(lambda q: tuple(value / math.hypot(*q) for value in q))
)


def test_the_tcp_of_a_hand_that_points_down_by_hand():
    # link8 looks down (half a turn about x), then turns by -45 degrees about the vertical: so the hand,
    # which is mounted at -45 degrees, has its y axis along -y of the base. The TCP is 0.1034 m below.
    state = np.array([0.5, 0.1, 0.4, math.pi, 0.0, -EIGHTH, 0.2])
    message = chain().command_pose(state, Time(sec=9))
    position, turn = message.pose.position, message.pose.orientation
    assert (message.header.frame_id, message.header.stamp.sec) == ("link0", 9)
    np.testing.assert_allclose([position.x, position.y, position.z], [0.5, 0.1, 0.2966], atol=1e-12)
    np.testing.assert_allclose([turn.x, turn.y, turn.z, turn.w], [1, 0, 0, 0], atol=1e-12)
    back = chain().robot_state(stamped((0.5, 0.1, 0.2966)), 0.2)
    np.testing.assert_allclose(back.vector[[0, 1, 2, 6]], [0.5, 0.1, 0.4, 0.2], atol=1e-12)
    np.testing.assert_allclose(rotation(back.vector[3:6]), rotation(state[3:6]), atol=1e-12)
    assert back.stamp == pytest.approx(3.0000005)


@given(state=states)
def test_out_and_in_again_is_the_same_state(state):
    both = chain()
    message = both.command_pose(state, Time(sec=1))
    back = both.robot_state(message, state[6])
    np.testing.assert_allclose(back.vector[:3], state[:3], atol=1e-9)
    np.testing.assert_allclose(rotation(back.vector[3:6]), rotation(state[3:6]), atol=1e-9)
    assert (back.vector[6], back.stamp) == (state[6], 1.0)


@given(xyz=positions, xyzw=quaternions)
def test_in_and_out_again_is_the_same_pose(xyz, xyzw):
    both = chain()
    message = stamped(xyz, xyzw)
    again = both.command_pose(both.robot_state(message, 0.0).vector, message.header.stamp)
    np.testing.assert_allclose(pose_to_matrix(again.pose), pose_to_matrix(message.pose), atol=1e-9)
    turn = again.pose.orientation
    assert max(turn.x, turn.y, turn.z, turn.w, key=abs) > 0


@given(state=states, shift=positions)
def test_a_translation_moves_all_frames_alike(state, shift):
    moved = state + np.array([*shift, 0, 0, 0, 0])
    poses = [pose_to_matrix(chain().pose(s)) for s in (state, moved)]
    np.testing.assert_allclose(poses[1][:3, 3] - poses[0][:3, 3], shift, atol=1e-12)
    np.testing.assert_allclose(poses[1][:3, :3], poses[0][:3, :3], atol=1e-12)


def test_a_rotation_moves_the_tcp_but_not_link8():
    state = torch.tensor([0.5, 0.0, 0.4, math.pi, 0.0, -EIGHTH, 0.0], dtype=torch.float64)
    turned = geometry.step(state, torch.tensor([0, 0, 0, 0, 0.3, 0, 0], dtype=torch.float64))
    before, after = (pose_to_matrix(chain().pose(s.numpy())) for s in (state, turned))
    # About the base y axis, with the TCP straight below: it swings back and up.
    np.testing.assert_allclose(
        after[:3, 3] - before[:3, 3], [-0.1034 * math.sin(0.3), 0, 0.1034 * (1 - math.cos(0.3))], atol=1e-12
    )
    # The same angles sent as a rotation of the TCP would have moved link8 instead.
    about_tcp = before.copy()
    about_tcp[:3, :3] = after[:3, :3]
    link8 = chain().robot_state(PoseStamped(header=stamped().header, pose=matrix_to_pose(about_tcp)), 0.0)
    assert np.linalg.norm(link8.vector[:3] - state.numpy()[:3]) == pytest.approx(
        2 * 0.1034 * math.sin(0.15)
    )


@given(state=states, twist=st.tuples(*[st.floats(-1, 1)] * 6))
def test_a_twist_moves_the_command_frame_as_its_pose_changes(state, twist):
    twist, dt = np.array(twist), 1e-6
    message = chain().command_twist(twist, state, Time(sec=4))
    linear, angular = message.twist.linear, message.twist.angular
    assert (message.header.frame_id, message.header.stamp.sec) == ("link0", 4)
    np.testing.assert_allclose([angular.x, angular.y, angular.z], twist[3:])
    # For small angles the rotation of an action is a rotation vector.
    action = torch.tensor(np.append(twist * dt, 0.0))
    after = geometry.step(torch.tensor(state), action).numpy()
    poses = [pose_to_matrix(chain().pose(s)) for s in (state, after)]
    np.testing.assert_allclose(
        (poses[1][:3, 3] - poses[0][:3, 3]) / dt, [linear.x, linear.y, linear.z], atol=1e-5
    )


def test_frames_that_coincide_are_left_alone():
    state = np.array([0.5, 0.1, 0.4, 0.3, 0.2, 0.1, 0.5])
    same = FrameChain(FramesConfig("link0", "link8", "link8", "link8"))
    np.testing.assert_allclose(
        same.robot_state(same.command_pose(state, Time()), 0.5).vector, state, atol=1e-12
    )


def test_state_and_command_may_be_different_frames():
    # The robot reports the hand's TCP and is commanded at the flange.
    mixed = chain(state="hand_tcp", command="link8")
    state = mixed.robot_state(stamped(), 0.0).vector
    np.testing.assert_allclose(
        pose_to_matrix(mixed.pose(state))[:3, 3], [0.5, 0.0, 0.3 + 0.1034], atol=1e-12
    )


def test_transforms_may_run_down_and_up_again_and_do_not_commute():
    transforms = {
        "camera": StaticTransform("flange", xyz=(0.05, 0.0, 0.0), rpy=(0.0, 0.0, QUARTER)),
        "mount": StaticTransform("flange", xyz=(0.0, 0.0, 0.1), rpy=(QUARTER, 0.0, 0.0)),
        "tool": StaticTransform("mount", xyz=(0.0, 0.0, 0.2)),
    }
    tool = FrameChain(FramesConfig("base", "camera", "tool", "tool", transforms)).state_in_model
    # The mount's z axis is the flange's -y, so the tool is at (0, -0.2, 0.1) of the flange, which is
    # (-0.05, -0.2, 0.1) from the camera, whose x axis is the flange's y.
    np.testing.assert_allclose(tool[:3, 3], [-0.2, 0.05, 0.1], atol=1e-12)
    # The tool's axes: x is the flange's x, the camera's -y; y is the flange's z, as is the camera's z.
    np.testing.assert_allclose(tool[:3, :3], [[0, 0, -1], [-1, 0, 0], [0, 1, 0]], atol=1e-12)


@given(xyzw=quaternions, scale=st.floats(0.96, 1.04))
def test_quaternions_are_normalised(xyzw, scale):
    pose = stamped(xyzw=tuple(scale * value for value in xyzw)).pose
    matrix = pose_to_matrix(pose)
    np.testing.assert_allclose(matrix, pose_to_matrix(stamped(xyzw=xyzw).pose), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_allclose(invert(matrix) @ matrix, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"xyzw": (0.0, 0.0, 0.0, 0.0)},
            r"the quaternion's norm must be 1, received 0 of xyzw \[0.0, 0.0,",
        ),
        ({"xyzw": (0.0, 0.0, 0.0, 2.0)}, "the quaternion's norm must be 1, received 2 "),
        ({"xyzw": (math.nan, 0.0, 0.0, 1.0)}, r"every value must be finite, received .*nan"),
        ({"xyzw": (math.inf, 0.0, 0.0, 1.0)}, r"every value must be finite"),
        ({"xyz": (0.5, math.nan, 0.3)}, r"every value must be finite"),
        ({"xyz": (500.0, 0.0, 300.0)}, "position must lie within 10 m of the base"),
        (
            {"frame_id": "world"},
            "received header.frame_id 'world', allowed 'link0'; publish poses relative",
        ),
        ({"frame_id": "/link0"}, "received header.frame_id '/link0', allowed 'link0'"),
        (
            {"frame_id": ""},
            "received header.frame_id '', allowed 'link0'; .* or correct base_frame or base_aliases",
        ),
    ],
)
def test_poses_that_cannot_be_trusted_are_refused(fields, text):
    with pytest.raises(InputError, match=text):
        chain().robot_state(stamped(**fields), 0.0)


def test_other_names_of_the_base_are_taken_where_the_profile_says_so():
    lenient = chain(base_aliases=("base", ""))
    for name in ("link0", "base", ""):
        assert lenient.robot_state(stamped(frame_id=name), 0.0).vector[2] == pytest.approx(0.4034)
    with pytest.raises(InputError, match=r"received header\.frame_id 'world', allowed 'link0', 'base', ''"):
        lenient.robot_state(stamped(frame_id="world"), 0.0)
    # What is sent names the base frame itself.
    assert lenient.command_pose(np.zeros(7), STAMP).header.frame_id == "link0"


BASE = {"base_frame": "link0", "model_ee_frame": "link8", "state_ee_frame": "tcp", "command_frame": "link8"}


@pytest.mark.parametrize(
    ("transforms", "text"),
    [
        ({}, "transforms: none leads from 'tcp' to 'link8'; given are none"),
        ({"tcp": {"parent": "hand"}}, "none leads from 'tcp' to 'link8'; given are tcp on hand"),
        ({"tcp": {"parent": "a"}, "a": {"parent": "tcp"}}, "transforms: tcp on a on tcp is a circle"),
        ({"tcp": {"parent": "tcp"}}, "transforms: tcp on tcp is a circle"),
        (
            {"tcp": {"parent": "link8", "xyz": [0, 0, 103.4]}},
            "xyz: received 103.4 m, allowed -1.0 .. 1.0 m",
        ),
        ({"tcp": {"parent": "link8", "rpy": [0, 0, -45]}}, "rpy: received -45.0 rad, allowed -6.2832"),
        ({"tcp": {"parent": "link8", "rpy": [0, 0]}}, "expected 3 values, received 2"),
        ({"tcp": {"xyz": [0, 0, 0]}}, "missing parent"),
    ],
)
def test_chains_that_lead_nowhere_are_refused(transforms, text):
    with pytest.raises(ConfigError, match=text):
        from_mapping(FramesConfig, {**BASE, "transforms": transforms})


def test_frames_must_have_names():
    with pytest.raises(ConfigError, match="base_frame: received ''"):
        from_mapping(FramesConfig, {**BASE, "base_frame": "", "transforms": {"tcp": {"parent": "link8"}}})
