"""The state of a Franka: modes, errors, pose, and the check of its end-effector frame."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from rclpy.executors import SingleThreadedExecutor

from vjepa_ac_planner.errors import InputError, MissingDependencyError
from vjepa_ac_planner.ros import franka
from vjepa_ac_planner.ros.profile import load_profile

ERRORS = (
    "joint_position_limits_violation",
    "cartesian_reflex",
    "communication_constraints_violation",
    "instability_detected",
)
"""Some of the 36 fields of the real message."""


class Errors:
    """As ``franka_msgs/Errors``: one boolean by name."""

    def __init__(self, **active):
        for name in ERRORS:
            setattr(self, name, active.get(name, False))

    @classmethod
    def get_fields_and_field_types(cls):
        return dict.fromkeys(ERRORS, "boolean")


class State:
    """As ``franka_msgs/FrankaRobotState``, as far as it is read, for machines without franka_msgs."""

    def __init__(self):
        self.robot_mode = 0
        self.current_errors, self.last_motion_errors = Errors(), Errors()
        self.o_t_ee, self.f_t_ee = PoseStamped(), PoseStamped()


@pytest.fixture(params=["stand-in", "franka_msgs"])
def state_class(request):
    """The state message: a stand-in everywhere, and the real one where it is installed."""
    if request.param == "stand-in":
        return State, Errors
    messages = pytest.importorskip("franka_msgs.msg", reason="no franka_msgs", exc_type=ImportError)
    return messages.FrankaRobotState, messages.Errors


@pytest.fixture
def frames():
    return load_profile("fr3").chain()


@pytest.fixture
def message(state_class):
    """An arm that moves, hand down, with its TCP where the profile says."""
    message = state_class[0]()
    message.robot_mode = 2
    message.o_t_ee.header.frame_id = "fr3_link0"
    message.o_t_ee.header.stamp = Time(sec=12, nanosec=250_000_000)
    message.o_t_ee.pose = Pose(position=Point(x=0.5, y=0.1, z=0.3), orientation=Quaternion(x=1.0, w=0.0))
    message.f_t_ee.pose = hand()
    return message


def hand(z=0.1034, degrees=-45.0, metres=0.0):
    half = math.radians(degrees) / 2
    orientation = Quaternion(z=math.sin(half), w=math.cos(half))
    return Pose(position=Point(x=metres, z=z), orientation=orientation)


def test_what_an_arm_that_moves_says(message, frames):
    state = franka.read_state(message, frames)
    assert (state.status.mode, state.status.errors, state.stamp) == ("move", (), 12.25)
    vector = frames.robot_state(state.pose, 0.0).vector
    np.testing.assert_allclose(vector[:3], [0.5, 0.1, 0.4034], atol=1e-12)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "other"),
        (1, "idle"),
        (2, "move"),
        (3, "guiding"),
        (4, "reflex"),
        (5, "user_stopped"),
        (6, "automatic_error_recovery"),
        (7, "unknown_7"),
        (255, "unknown_255"),
    ],
)
def test_modes_by_name(message, frames, number, name):
    message.robot_mode = number
    assert franka.read_state(message, frames).status.mode == name


def test_the_numbers_are_those_of_franka_msgs():
    messages = pytest.importorskip("franka_msgs.msg", reason="no franka_msgs", exc_type=ImportError)
    for number, name in enumerate(franka.MODES):
        assert getattr(messages.FrankaRobotState, f"ROBOT_MODE_{name.upper()}") == number
    assert set(ERRORS) < set(messages.Errors.get_fields_and_field_types())
    assert franka.state_message() is messages.FrankaRobotState


def test_active_errors_by_name_and_past_ones_not(message, frames, state_class):
    message.current_errors = state_class[1](cartesian_reflex=True, instability_detected=True)
    message.last_motion_errors = state_class[1](joint_position_limits_violation=True)
    assert franka.read_state(message, frames).status.errors == ("cartesian_reflex", "instability_detected")


@pytest.mark.parametrize(
    "pose",
    [
        Pose(orientation=Quaternion(w=1.0)),  # no tool is set in Desk
        Pose(orientation=Quaternion(w=0.0)),  # nobody filled it in
        hand(z=0.2),
        hand(degrees=45.0),
        hand(degrees=-43.0),
        hand(metres=0.003),
        hand(z=math.nan),
    ],
)
def test_another_end_effector_than_the_profiles_is_an_error(message, frames, pose):
    message.f_t_ee.pose = pose
    (error,) = franka.read_state(message, frames).status.errors
    assert error.startswith(franka.END_EFFECTOR_ERROR)


def test_what_desk_has_and_what_the_profile_has_are_told(message, frames):
    message.f_t_ee.pose = hand(z=0.2, degrees=0.0)
    assert franka.read_state(message, frames).status.errors == (
        "end_effector_frame_differs_from_profile: received xyz [0.0, 0.0, 0.2] m, rpy [0.0, 0.0, 0.0] rad; "
        "the profile has fr3_hand_tcp at xyz [0.0, 0.0, 0.1034] m, rpy [0.0, 0.0, -0.7854] rad of "
        "fr3_link8; set it in Desk, or correct transforms",
    )
    message.f_t_ee.pose = Pose(orientation=Quaternion(w=0.0))
    (error,) = franka.read_state(message, frames).status.errors
    assert "received pose: the quaternion's norm must be 1, received 0" in error


@pytest.mark.parametrize("pose", [hand(), hand(z=0.1044), hand(degrees=-44.5), hand(degrees=315.0)])
def test_a_hair_or_a_turn_of_difference_is_none(message, frames, pose):
    message.f_t_ee.pose = pose
    assert franka.read_state(message, frames).status.errors == ()


def test_poses_that_cannot_be_trusted_are_refused(message, frames):
    message.o_t_ee.header.frame_id = "world"
    with pytest.raises(InputError, match=r"received header\.frame_id 'world', allowed 'fr3_link0'"):
        franka.read_state(message, frames)
    message.o_t_ee.header.frame_id = "fr3_link0"
    message.o_t_ee.pose.position.x = math.nan
    with pytest.raises(InputError, match="every value must be finite"):
        frames.robot_state(franka.read_state(message, frames).pose, 0.0)


def test_without_franka_msgs_the_error_says_where_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "franka_msgs.msg", None)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(MissingDependencyError) as caught:
        franka.state_message()
    assert str(caught.value).startswith("topic robot_state (null in the robot's profile")
    assert "needs the message package franka_msgs" in str(caught.value)
    # apt has it for Humble only.
    assert "apt" not in str(caught.value)
    assert "build franka_msgs of https://github.com/frankarobotics/franka_ros2" in str(caught.value)


def test_the_franka_msgs_of_another_driver_is_named(monkeypatch):
    foreign = ModuleType("franka_msgs.msg")
    foreign.FrankaState, foreign.__file__ = State, "/lab/franka_msgs/msg/__init__.py"
    monkeypatch.setitem(sys.modules, "franka_msgs", ModuleType("franka_msgs"))
    monkeypatch.setitem(sys.modules, "franka_msgs.msg", foreign)
    with pytest.raises(MissingDependencyError) as caught:
        franka.state_message()
    assert "needs franka_msgs/FrankaRobotState, which this franka_msgs has not (/lab/" in str(caught.value)
    assert "franka_msgs of frankarobotics/franka_ros2, or set topics.robot_state: null" in str(caught.value)


PUBLISHER = """
import sys, time
import rclpy
from franka_msgs.msg import FrankaRobotState

rclpy.init()
node = rclpy.create_node("arm_under_test")
publisher = node.create_publisher(FrankaRobotState, "robot_state", 10)
message = FrankaRobotState(robot_mode=FrankaRobotState.ROBOT_MODE_MOVE)
message.o_t_ee.header.frame_id = "fr3_link0"
message.o_t_ee.pose.position.x = 0.5
message.o_t_ee.pose.orientation.x, message.o_t_ee.pose.orientation.w = 1.0, 0.0
turn = message.f_t_ee.pose.orientation
turn.z, turn.w = -0.3826834323650898, 0.9238795325112867
message.f_t_ee.pose.position.z = 0.1034
next_ = time.monotonic()
for tick in range(6000):
    if tick == 3000:
        message.robot_mode = FrankaRobotState.ROBOT_MODE_REFLEX
        message.current_errors.cartesian_reflex = True
    message.o_t_ee.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    next_ += 0.001
    time.sleep(max(0.0, next_ - time.monotonic()))
"""


@pytest.mark.ros
def test_a_reflex_in_the_stream_of_another_process_is_seen(ros, frames):
    messages = pytest.importorskip("franka_msgs.msg", reason="no franka_msgs", exc_type=ImportError)
    node = rclpy.create_node("planner_under_test")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    seen, ages = [], []

    def on_state(message):
        state = franka.read_state(message, frames)
        ages.append(node.get_clock().now().nanoseconds * 1e-9 - state.stamp)
        if not seen or seen[-1] != state.status:
            seen.append(state.status)

    subscription = node.create_subscription(messages.FrankaRobotState, "robot_state", on_state, 1)
    arm = subprocess.Popen([sys.executable, "-c", PUBLISHER])
    try:
        end = time.monotonic() + 60.0
        while arm.poll() is None and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        assert arm.wait(1.0) == 0
    finally:
        arm.kill()
        executor.shutdown()
        node.destroy_subscription(subscription)
        node.destroy_node()
    assert [(status.mode, status.errors) for status in seen] == [
        ("move", ()),
        ("reflex", ("cartesian_reflex",)),
    ]
    # The newest state is what counts, not every one of the thousand a second.
    assert len(ages) > 500
    assert sorted(ages)[len(ages) // 2] < 0.1
