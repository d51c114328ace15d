"""The robot says that it must not be commanded: reflex, user stop, errors, or nothing at all any more."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fault_rig import SLACK, START, STEP, Rig, write_profile

OK, WARN, ERROR = 0, 1, 2
STATE_KINDS = [
    "stand-in",
    # The real message, where it is installed: a process of its own more.
    pytest.param("franka_msgs", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=STATE_KINDS)
def reporting(request, tmp_path_factory):
    """A robot that reports mode and errors, and a planner that listens."""
    kind = request.param
    if kind == "franka_msgs":
        pytest.importorskip("franka_msgs.msg", reason="no franka_msgs", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("modes")
    path = write_profile(folder, topics={"robot_state": "franka_robot_state_broadcaster/robot_state"})
    rig = Rig(path, folder, state_kind=kind)
    try:
        rig.start()
        yield rig
        rig.planner.end()
    finally:
        rig.close()


@pytest.fixture
def arm(reporting):
    reporting.heal()
    begin = reporting.robot.clock()
    reporting.run()
    yield reporting
    reporting.robot.heal()
    reporting.check_commands(begin)


def pauses_until_enabled_again(rig, fault, says):
    robot, begin = rig.robot, rig.robot.clock()
    fault(robot.faults)
    deadline = begin + SLACK
    robot.wait_status(says, begin)
    rig.check_still(deadline)
    robot.wait_diagnostic("safety", says, ERROR, begin)
    robot.heal()
    healed = robot.clock()
    time.sleep(STEP + SLACK)
    # A person decides when it goes on: the arm may be in somebody's hands.
    assert robot.motion(healed) < 1e-4
    assert robot.diagnostics[-1][1]["safety"][0] == ERROR
    rig.run()


@pytest.mark.parametrize(
    "mode",
    [
        "reflex",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("user_stopped", "guiding", "other", "automatic_error_recovery")
        ),
    ],
)
def test_modes_in_which_nothing_may_be_commanded(arm, mode):
    def fault(faults):
        faults.mode = mode

    says = rf"^paused: .*robot mode: {mode}, allowed idle or move \(pause\)"
    pauses_until_enabled_again(arm, fault, says)


@pytest.mark.slow
def test_errors(arm):
    def fault(faults):
        faults.errors = ("cartesian_reflex",)

    pauses_until_enabled_again(arm, fault, r"^paused: .*robot errors: cartesian_reflex, allowed none")


def test_the_robot_says_nothing_any_more(arm):
    def fault(faults):
        faults.robot_state = False

    pauses_until_enabled_again(arm, fault, r"^paused: .*robot mode: unknown")
    robot = arm.robot
    robot.enable(False)
    robot.faults.robot_state = False
    time.sleep(0.5 + SLACK)
    success, why = robot.enable()
    assert not success
    assert "robot state: nothing on /franka_robot_state_broadcaster/robot_state for" in why


def test_a_reflex_ends_the_motion_at_once(arm):
    """Not at the next plan: setpoints that go on in a reflex would be a leap when the arm is back."""
    arm.order(seconds=5.0)
    robot = arm.robot
    begin = robot.clock()
    robot.faults.mode = "reflex"
    robot.wait_diagnostic("setpoint stream", r"^follow: robot mode: reflex", WARN, begin)


def test_setpoints_follow_an_arm_that_is_moved_by_hand(arm):
    """So that nothing leaps when it listens again."""
    robot = arm.robot
    robot.faults.mode = "guiding"
    robot.wait_status("^paused", robot.clock() - 0.1)
    robot.follows = False
    found = robot.vector.copy()
    elsewhere = START + np.array([0.02, 0.06, 0.03, 0.0, 0.0, 0.0, 0.0])
    for share in np.linspace(0.0, 1.0, 50):
        robot.put(found + share * (elsewhere - found))
        time.sleep(0.02)
    time.sleep(SLACK)
    last = robot.chain.robot_state(robot.commands[-1].message, 0.0).vector
    np.testing.assert_allclose(last[:3], elsewhere[:3], atol=1e-6)
    robot.follows, robot.faults.mode = True, "move"
    begin = robot.clock()
    time.sleep(0.5)
    assert robot.motion(begin) < 1e-4
    arm.run()
