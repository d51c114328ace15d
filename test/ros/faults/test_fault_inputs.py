"""What comes in stops, freezes, disagrees or is nonsense: the arm holds in time, says why, and goes on."""

from __future__ import annotations

import math
import time

import pytest
from fault_rig import SLACK, STEP

OK, WARN, ERROR = 0, 1, 2


def few(cases, *always):
    """All cases by name; but some are left to the slow run."""
    marks = {case: () if case in always else pytest.mark.slow for case in cases}
    return [pytest.param(case, id=case.__name__, marks=marks[case]) for case in cases]


def recovers(rig, *parts):
    """The cause is gone: the arm moves again without being told, and diagnostics are in order."""
    rig.robot.heal()
    begin = rig.robot.clock()
    rig.robot.wait_motion(begin)
    for part in parts:
        rig.robot.wait_diagnostic(part, "alive", OK, begin)


def test_camera_stops(running):
    begin = running.robot.clock()
    running.robot.faults.camera = False
    bound = running.profile.safety.max_image_age + STEP
    running.check_rest(begin, bound, r"^holding: max_image_age: \d+\.\d+ s, allowed 0.500 s")
    running.robot.wait_diagnostic("camera", r"nothing on /camera/image_raw for", ERROR, begin)
    recovers(running, "camera")


def test_camera_repeats_an_old_stamp(running):
    begin = running.robot.clock()
    running.robot.faults.same_stamp = True
    bound = running.profile.safety.max_image_age + STEP
    running.check_rest(begin, bound, r"^holding: max_image_age")
    running.robot.wait_diagnostic("planning", r"^holding: max_image_age", WARN, begin)
    recovers(running)


def test_camera_sends_the_same_pixels_with_new_stamps(running):
    robot, begin = running.robot, running.robot.clock()
    robot.faults.same_pixels = True
    held = robot.wait_status(r"^holding: max_frozen_motion: equal frames while the arm moved", begin)
    running.check_still(held + 0.1)
    running.check_streaming(held)
    # A step beyond the configured 3 cm may be under way when the frame that shows it is taken.
    limits = running.limits
    allowed = running.profile.safety.max_frozen_motion + 2 * limits.max_translation
    assert robot.motion(begin + 0.2) < allowed
    robot.wait_diagnostic("safety", "max_frozen_motion", WARN, begin)
    recovers(running)


@pytest.mark.slow
def test_an_arm_that_stands_still_may_have_still_pictures(rig):
    """The rule against frozen cameras is about motion: it must not keep the arm from starting."""
    rig.robot.faults.same_pixels = True
    time.sleep(0.3)
    begin = rig.robot.clock()
    assert rig.robot.enable()[0]
    rig.robot.wait_motion(begin, 0.01)


@pytest.fixture
def patient(rig):
    """Bounds on age so wide that only the skew can be what is objected to."""
    assert rig.robot.set(safety__max_state_age=2.0, safety__max_image_age=2.0) == [(True, "")] * 2
    yield rig
    rig.robot.set(safety__max_state_age=0.2, safety__max_image_age=0.5)


def test_states_are_of_another_moment_than_images(patient):
    patient.run()
    begin = patient.robot.clock()
    patient.robot.faults.state_offset = -0.4
    patient.check_rest(begin, STEP, r"^holding: max_skew: \+0\.\d+ s, allowed 0.100 s")
    recovers(patient)


@pytest.mark.slow
def test_late_images_are_paired_with_the_states_of_their_moment(patient):
    patient.run()
    patient.robot.faults.image_offset = -0.4
    begin = patient.robot.clock()
    time.sleep(1.0)
    patient.robot.wait_motion(begin + 1.0)
    assert not any("max_skew" in text for _, text in patient.robot.said(begin))


@pytest.mark.slow
def test_images_from_the_future(running):
    begin = running.robot.clock()
    running.robot.faults.image_offset = 5.0
    running.check_rest(begin, STEP, r"^holding: max_image_age: -\d\.\d+ s, a stamp from the future")
    recovers(running)


def test_state_stops(running):
    begin = running.robot.clock()
    running.robot.faults.state = False
    bound = running.profile.safety.max_state_age
    running.check_rest(begin, bound + STEP, r"^holding: .*max_state_age")
    assert running.robot.motion(begin + bound + SLACK) < 1e-4
    pattern = r"nothing on /franka_robot_state_broadcaster/current_pose for"
    running.robot.wait_diagnostic("end-effector pose", pattern, ERROR, begin)
    running.robot.wait_diagnostic("setpoint stream", r"^hold: max_state_age", None, begin)
    recovers(running, "end-effector pose")


@pytest.mark.slow
def test_gripper_state_stops(running):
    """Half of the state is missing, so there is no state."""
    begin = running.robot.clock()
    running.robot.faults.gripper = False
    bound = 1.0 + running.profile.safety.max_state_age + STEP
    running.check_rest(begin, bound, r"^holding: .*max_state_age")
    running.robot.wait_diagnostic("gripper", r"nothing on /franka_gripper/joint_states for", ERROR, begin)
    recovers(running, "gripper")


def not_a_number(message):
    message.pose.position.y = math.nan


def no_rotation(message):
    message.pose.orientation.x = message.pose.orientation.y = 0.0
    message.pose.orientation.z = message.pose.orientation.w = 0.0


def other_frame(message):
    message.header.frame_id = "camera_link"


def millimetres(message):
    message.pose.position.x *= 1000.0


POSES = {
    not_a_number: "every value must be finite",
    no_rotation: "quaternion's norm must be 1",
    other_frame: "received header.frame_id 'camera_link', allowed 'panda_link0'",
    millimetres: "are these millimetres",
}


@pytest.mark.parametrize("spoil", few(POSES, not_a_number, other_frame))
def test_pose_is_nonsense(running, spoil):
    begin = running.robot.clock()
    running.robot.faults.spoil_pose = spoil
    bound = running.profile.safety.max_state_age + STEP
    running.check_rest(begin, bound, r"^holding: .*max_state_age")
    running.robot.wait_diagnostic("end-effector pose", POSES[spoil], ERROR, begin)
    running.robot.wait_diagnostic("setpoint stream", r"^hold: max_state_age", None, begin)
    recovers(running, "end-effector pose")


def test_nothing_begins_with_nonsense_poses(rig):
    """A topic full of messages of which none is usable is as good as none: the refusal says so."""
    rig.robot.faults.spoil_pose = not_a_number
    time.sleep(rig.profile.safety.max_state_age + SLACK)
    success, why = rig.robot.enable()
    assert not success
    assert "end-effector pose" in why and "every value must be finite" in why
    begin = rig.robot.clock()
    time.sleep(0.5)
    assert not rig.robot.sent(begin)
    rig.robot.heal()
    rig.run()


def truncated(message):
    message.data = message.data[:-5]


def unknown_encoding(message):
    message.encoding = "bayer_rggb8"


def tiny(message):
    message.width = message.height = 8
    message.step = 24
    message.data = message.data[: 8 * 24]


def empty(message):
    message.width = message.height = message.step = 0
    message.data = message.data[:0]


IMAGES = {
    truncated: "96 rows of step 288 take 27648 bytes, but data has 27643",
    unknown_encoding: "received encoding 'bayer_rggb8', allowed rgb8",
    tiny: "at least 16x16 pixels",
    empty: "received 0x0 pixels",
}


@pytest.mark.parametrize("spoil", few(IMAGES, truncated))
def test_camera_image_is_unusable(running, spoil):
    begin = running.robot.clock()
    running.robot.faults.spoil_image = spoil
    bound = running.profile.safety.max_image_age + STEP
    running.check_rest(begin, bound, r"^holding: max_image_age")
    running.robot.wait_diagnostic("camera", IMAGES[spoil], ERROR, begin)
    recovers(running, "camera")


@pytest.mark.parametrize("spoil", few(IMAGES, truncated))
def test_goal_image_is_unusable(running, spoil):
    """The goal of before stands, and the run towards it goes on."""
    begin = running.robot.clock()
    running.robot.send_goal(spoil)
    running.robot.wait_diagnostic("goal", IMAGES[spoil], WARN, begin)
    running.robot.wait_motion(running.robot.clock())
    again = running.robot.clock()
    running.robot.send_goal()
    running.robot.wait_status(r"towards 'goal'", again)
    running.robot.wait_diagnostic("goal", "alive", OK, again)
    running.robot.wait_motion(again)
