"""The planner is slow, deaf, out of memory, defective or wild; goals and requests come in between."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fault_rig import SLACK, STEP

OK, WARN, ERROR = 0, 1, 2


def recovers(rig):
    rig.order()
    rig.robot.wait_motion(rig.robot.clock())


def test_planner_slower_than_the_stream(running):
    """Plans of 0.4 s: each is carried out, and in between setpoints go on at their rate."""
    running.order(seconds=0.4)
    time.sleep(0.5)
    begin = running.robot.clock()
    running.robot.wait_motion(begin)
    time.sleep(1.0)
    running.check_streaming(begin)
    period = np.median(np.diff([one.stamp for one in running.robot.sent(begin)]))
    assert period == pytest.approx(1.0 / running.profile.stream_hz, rel=0.25)


def test_plans_that_take_longer_than_they_are_good_for(running):
    robot, begin = running.robot, running.robot.clock()
    running.order(seconds=1.3)
    bound = running.profile.safety.max_plan_age + STEP
    robot.wait_status(r"^holding: max_plan_age: 1\.\d+ s, allowed 1.000 s", begin)
    running.check_still(begin + bound + SLACK)
    running.check_streaming(begin)
    robot.wait_diagnostic("planning", "^holding: max_plan_age", WARN, begin)
    recovers(running)


@pytest.mark.parametrize(
    ("raises", "says"),
    [
        ("memory", r"^holding: plan: DeviceMemoryError: .*out of memory while rolling out a single action"),
        ("error", r"^holding: plan: PlanningError: RuntimeError: the injected error"),
    ],
)
def test_planner_raises_in_the_middle_of_a_plan(running, raises, says):
    robot, begin = running.robot, running.robot.clock()
    running.order(raises=raises)
    failed = robot.wait_status(says, begin)
    running.check_still(failed + STEP)
    running.check_streaming(begin)
    robot.wait_diagnostic("planning", says, WARN, begin)
    _, parts = robot.diagnostics[-1]
    assert int(parts["planning"][2]["failed plans"]) > 0
    recovers(running)


def test_wild_plans_stay_within_all_limits(running):
    """Half a metre and 0.6 rad at a time, out of the workspace; the fixture checks what was sent."""
    robot, begin = running.robot, running.robot.clock()
    running.order(plan="leap")
    robot.wait_diagnostic("safety", r"max_translation: 0\.\d+ m, allowed 0.060 m \(limited\)", WARN, begin)
    robot.wait_diagnostic("safety", r"max_rotation", WARN, begin)
    robot.wait_motion(robot.clock(), 0.05)


def test_disabling_does_not_wait_for_a_plan_that_does_not_listen(running):
    """The arm is held at once; what the plan then says is not carried out."""
    robot = running.robot
    running.order(seconds=2.0, deaf=True)
    robot.wait_status("^moving|^holding", robot.clock())
    time.sleep(0.6)  # by now such a plan is under way
    asked = robot.clock()
    assert robot.enable(False) == (True, "holding, then silent")
    answered = robot.clock()
    assert answered - asked < SLACK
    running.check_still(answered + 0.1, 2.5)
    assert not robot.sent(answered + 0.5 + SLACK)


def test_disabling_holds_then_falls_silent(running):
    robot = running.robot
    robot.enable(False)
    answered = robot.clock()
    running.wait_silence()
    after = robot.sent(answered + 0.1)
    assert len(after) > 5, "holds are sent for a while"
    assert robot.motion(answered + 0.1) < 1e-4
    assert robot.commands[-1].arrived < answered + 0.5 + SLACK
    robot.wait_status("^idle: disabled", answered)
    robot.wait_diagnostic("setpoint stream", "^silent", OK, answered)


def test_a_new_goal_replaces_the_old_one_in_mid_plan(running):
    robot = running.robot
    running.order(seconds=5.0)
    time.sleep(0.5)
    begin = robot.clock()
    robot.send_goal()
    robot.wait_status(r"^running: towards 'goal'", begin, 2.0 + SLACK)
    recovers(running)
    running.check_streaming(begin)
    # What became of the plan that was cut short concerns nobody.
    assert not any("PlanCancelled" in text for _, text in robot.said(begin))


def test_a_single_plan_moves_nothing(rig):
    begin = rig.robot.clock()

    def planned() -> bool:
        success, text = rig.robot.trigger("plan_once")
        assert success and text.startswith("energy "), text
        return "would move" in text  # and not "would hold", because the machine was too busy

    rig.robot.wait(planned, "a plan that would move")
    rig.robot.wait(lambda: [a for t, a in rig.robot.actions if t > begin], "the plan is published")
    time.sleep(0.5)
    assert not rig.robot.sent(begin)


def test_a_single_plan_that_fails_says_why(rig):
    rig.order(raises="memory")
    success, text = rig.robot.trigger("plan_once")
    assert not success and "out of memory" in text
    rig.order()
    assert rig.robot.trigger("plan_once")[0]


def test_states_are_received_while_a_single_plan_is_made(rig):
    """A plan that takes longer than states are good for: they must go on being taken in."""
    rig.order(seconds=0.7)

    def planned() -> bool:
        success, text = rig.robot.trigger("plan_once")
        assert success, text
        return "max_state_age" not in text

    rig.robot.wait(planned, "a plan with a fresh state")


def test_a_single_plan_is_replaced_by_the_next(rig):
    """Each caller gets the answer to its own question."""
    from std_srvs.srv import Trigger

    rig.order(seconds=3.0)
    first = rig.robot.ask("plan_once", Trigger.Request())
    time.sleep(0.5)
    rig.order()
    second = rig.robot.trigger("plan_once")
    rig.robot.wait(first.done, "the first is answered")
    assert (first.result().success, first.result().message) == (False, "replaced by a newer request")
    assert second[0] and second[1].startswith("energy ")


def test_a_single_plan_is_refused_while_running(running):
    success, text = running.robot.trigger("plan_once")
    assert not success and "a run is under way" in text
    running.robot.wait_motion(running.robot.clock())


def test_a_single_plan_is_answered_when_a_run_replaces_it(rig):
    """Nobody waits for ever for the answer to a question that was overtaken."""
    from std_srvs.srv import Trigger

    rig.order(seconds=3.0)
    future = rig.robot.ask("plan_once", Trigger.Request())
    time.sleep(0.5)
    assert rig.robot.enable()[0]
    rig.robot.wait(future.done, "the single plan is answered", 1.0 + SLACK)
    assert (future.result().success, future.result().message) == (False, "replaced by a newer request")
    recovers(rig)
