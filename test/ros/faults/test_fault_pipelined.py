"""A node that plans while the arm moves: the same limits, the same holds."""

from __future__ import annotations

import time

import pytest
from fault_rig import SLACK, STEP, Rig

pytestmark = pytest.mark.slow
OK = 0


@pytest.fixture(scope="module")
def pipelined(profile, tmp_path_factory):
    """A robot and a planner process of their own."""
    rig = Rig(profile, tmp_path_factory.mktemp("pipelined"), arguments=["-p", "pipelined:=true"])
    try:
        rig.start()
        yield rig
        rig.planner.end()
    finally:
        rig.close()


@pytest.fixture
def arm(pipelined):
    """In motion; what was sent during the test is checked at its end."""
    pipelined.heal()
    pipelined.run()
    begin = pipelined.robot.clock()
    yield pipelined
    pipelined.robot.heal()
    pipelined.check_commands(begin)


def test_it_plans_ahead_while_setpoints_go_on(arm):
    begin = arm.robot.clock()
    arm.order(seconds=0.2)
    arm.robot.wait_motion(begin, 0.05)
    time.sleep(1.0)
    arm.check_streaming(begin)
    arm.robot.wait_diagnostic("planning", "", OK, begin)
    _, parts = arm.robot.diagnostics[-1]
    assert parts["planning"][2]["plans made ahead"] != "none yet"


def test_disabling_holds_while_a_plan_is_made_ahead(arm):
    robot = arm.robot
    arm.order(seconds=2.0, deaf=True)
    time.sleep(1.0)  # by now such a plan is under way
    asked = robot.clock()
    assert robot.enable(False) == (True, "holding, then silent")
    assert robot.clock() - asked < SLACK
    arm.check_still(robot.clock() + 0.1, 2.5)


def test_a_plan_ahead_that_fails_leaves_the_arm_holding(arm):
    robot, begin = arm.robot, arm.robot.clock()
    arm.order(raises="memory")
    failed = robot.wait_status(r"^holding: plan: DeviceMemoryError", begin)
    arm.check_still(failed + STEP)
    arm.order()
    robot.wait_motion(robot.clock())
