"""The command topic, dry runs, parameters: nobody else, nothing at all, and only what is allowed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fault_rig import SLACK, STEP
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

OK, WARN, ERROR = 0, 1, 2


@pytest.fixture
def intruder(shared):
    """Makes a second publisher on the command topic, and takes it away."""
    made, node = [], shared.robot.node

    def enter():
        made.append(node.create_publisher(PoseStamped, shared.profile.topics.target_pose, 1))
        return made[-1]

    def leave():
        while made:
            node.destroy_publisher(made.pop())

    enter.leave = leave
    yield enter
    leave()


def test_a_second_publisher_ends_the_run(running, intruder):
    robot, begin = running.robot, running.robot.clock()
    intruder()
    paused = robot.wait_status(r"^paused: .*command publishers: 2, allowed 1, this one \(pause\)", begin)
    assert paused - begin < 0.5 + STEP + 2 * SLACK
    # Two streams would pull the arm to and fro: ours ends.
    running.wait_silence()
    silent = robot.clock()
    robot.wait_diagnostic("safety", "^paused: command publishers", ERROR, begin)
    time.sleep(0.5)
    assert not robot.sent(silent)
    success, why = robot.enable()
    assert not success and "/target_pose: 2 publishers, allowed 1" in why
    intruder.leave()
    # A pause ends by the decision of a person only.
    alone = robot.clock()
    robot.wait_diagnostic("safety", "^paused: command publishers", ERROR, alone + 1.0)
    assert robot.motion(alone) < 1e-4
    running.run()


def test_a_run_does_not_begin_beside_another_publisher(rig, intruder):
    begin = rig.robot.clock()
    intruder()
    rig.robot.wait(lambda: not rig.robot.enable()[0] or rig.robot.enable(False) is None, "refused")
    success, why = rig.robot.enable()
    assert not success and "/target_pose: 2 publishers, allowed 1, this one" in why
    assert rig.robot.motion(begin) < 1e-4
    intruder.leave()
    rig.run()


def test_a_dry_run_sends_nothing(rig):
    robot, begin = rig.robot, rig.robot.clock()
    assert robot.set(dry_run=True) == [(True, "")]
    try:
        assert robot.enable() == (True, "dry run: plans are made, nothing is sent")
        robot.wait_status(r"^dry run: .*dry_run: would move to \[", begin)
        robot.wait(lambda: len([t for t, _ in robot.actions if t > begin]) > 3, "plans are published")
        assert not robot.sent(begin)
        # Switched over while running it starts from where the arm is, and ends in silence again.
        assert robot.set(dry_run=False) == [(True, "")]
        robot.wait_motion(begin)
        first = robot.chain.robot_state(robot.sent(begin)[0].message, 0.0).vector
        np.testing.assert_allclose(first[:3], [0.53, 0.0, 0.32], atol=1e-6)
        assert robot.set(dry_run=True) == [(True, "")]
        ended = robot.clock()
        rig.wait_silence()
        assert robot.motion(ended + 0.1) < 1e-4
        time.sleep(0.5)
        assert not robot.sent(ended + 0.5 + SLACK)
    finally:
        robot.enable(False)
        robot.set(dry_run=False)


def test_parameters_are_taken_over_while_running(running):
    """A lower speed counts from the next setpoint on."""
    robot = running.robot
    assert robot.set(safety__limits__max_speed=0.02) == [(True, "")]
    try:
        begin = robot.clock() + 0.1
        time.sleep(1.6)
        sent = robot.sent(begin)
        way = np.linalg.norm(np.diff(robot.positions(begin), axis=0), axis=1).sum()
        assert 0.0 < way <= 0.02 * (sent[-1].stamp - sent[0].stamp + 0.1)
    finally:
        robot.set(safety__limits__max_speed=running.limits.max_speed)
    robot.wait_motion(robot.clock())


@pytest.mark.slow
def test_a_smaller_workspace_holds_from_then_on(running):
    """The arm, now outside, may only come nearer; inside again it stays there."""
    robot = running.robot
    high = [float(value) for value in running.limits.workspace_high]
    results = robot.set(safety__limits__workspace_high=[high[0], 0.05, high[2]])
    assert results == [(True, "")]
    try:
        time.sleep(1.0)
        begin = robot.clock()
        time.sleep(3.0)
        sides = [robot.chain.robot_state(one.message, 0.0).vector[1] for one in robot.sent(begin)]
        assert max(sides) <= 0.05 + running.limits.workspace_slack + 1e-6
    finally:
        robot.set(safety__limits__workspace_high=high)
    robot.wait_motion(robot.clock())


REFUSED = {
    "out of range": ({"safety__limits__max_speed": 50.0}, "max_speed"),
    "negative": ({"safety__max_image_age": -1.0}, "max_image_age"),
    "not a number": ({"safety__max_plan_age": float("nan")}, "max_plan_age"),
    "wrong type": ({"dry_run": "yes"}, "Wrong parameter type"),
    "wrong type, untyped": ({"safety__max_state_age": "soon"}, "max_state_age"),
    "unknown choice": ({"safety__base": "guessed"}, "allowed"),
    "read-only": ({"robot": "fr3"}, "read-only"),
    "read-only, nested": ({"topics__target_pose": "elsewhere"}, "read-only"),
    "inverted workspace": ({"safety__limits__workspace_low": [0.4, 0.3, 0.2]}, "workspace y"),
    "too short": ({"safety__limits__workspace_low": [0.4, 0.3]}, "workspace_low"),
    "undeclared": ({"safety__limits__max_jerk": 1.0}, "declared"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_are_refused_with_a_reason(rig, case):
    values, names = REFUSED[case]
    ((success, reason),) = rig.robot.set(**values)
    assert not success
    assert names in reason


def test_what_was_refused_has_changed_nothing(running):
    begin = running.robot.clock()
    for values, _ in REFUSED.values():
        running.robot.set(**values)
    running.robot.wait_motion(begin)
    running.check_streaming(begin)


def test_a_goal_publisher_whose_quality_of_service_does_not_match_is_named(rig):
    """Best effort where reliable is asked for: nothing would arrive, silently."""
    robot = rig.robot
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = robot.node.create_publisher(Image, rig.profile.topics.goal_image_topic, qos)
    try:
        begin = robot.clock()
        robot.wait_diagnostic("goal", "QoS does not match: .*[Bb]est effort", WARN, begin)
    finally:
        robot.node.destroy_publisher(publisher)
    gone = robot.clock()
    robot.wait_diagnostic("goal", "nothing yet|alive", OK, gone)
