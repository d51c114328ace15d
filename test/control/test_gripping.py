"""Gripper handling of sub-goals: who is searched when, and what is done."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_ac_planner.control.goals import SubGoal, SwitchRule
from vjepa_ac_planner.control.gripping import GRIP_STEPS, decide, full_grip
from vjepa_ac_planner.types import Frame, Goal, Plan, RobotState

STATE = RobotState(np.array([0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.3]))
GOAL = Goal(Frame(np.zeros((16, 16, 3), dtype=np.uint8)))


def plan(move=0.0, grip=0.0, gain=0.5):
    action = np.zeros((1, 7))
    action[0, 0], action[0, 6] = move, grip
    return Plan(action, np.zeros((2, 7)), 1.0 - gain, 1.0, 1.0, (), 1, 0, "iterations")


class Searcher:
    """Answers each kind of search with a plan of its own, and remembers what was asked."""

    def __init__(self, **plans):
        self.plans, self.asked = plans, []

    def __call__(self, gripper):
        self.asked.append(gripper)
        return self.plans[gripper or "preset"]


def sub_goal(mode, below=0.0):
    return SubGoal(GOAL, SwitchRule(settled_below=below), mode)


@pytest.mark.parametrize(("mode", "asked"), [("preset", None), ("plan", "with"), ("hold", "without")])
def test_one_search_where_nothing_is_staged(mode, asked):
    search = Searcher(**{asked or "preset": plan(move=0.03, grip=0.4)})
    decision = decide(search, sub_goal(mode), STATE, 0)
    assert search.asked == [asked]
    assert (decision.plan.action[0], decision.settled, decision.grip) == (0.03, False, None)


def test_the_gripper_waits_until_the_arm_has_nothing_to_gain():
    search = Searcher(without=plan(move=0.03), only=plan(grip=0.5))
    decision = decide(search, sub_goal("settle_first"), STATE, 0)
    assert search.asked == ["without"] and decision.plan.action[6] == 0.0 and not decision.settled

    search = Searcher(without=plan(move=0.03, gain=0.0), only=plan(grip=0.5))
    decision = decide(search, sub_goal("settle_first"), STATE, 0)
    assert search.asked == ["without", "only"] and decision.plan.action[6] == 0.5 and not decision.settled


@pytest.mark.parametrize("fingers", [plan(grip=0.5, gain=0.0), plan(grip=0.0, gain=0.5)])
def test_settled_is_when_neither_gains(fingers):
    arm = plan(move=0.03, gain=0.0)
    decision = decide(Searcher(without=arm, only=fingers), sub_goal("settle_first"), STATE, 0)
    assert decision.settled and decision.plan is arm


def test_a_move_too_short_to_matter_gains_nothing():
    short, long = plan(move=0.003), plan(move=0.005)
    for mode in ("plan", "hold", "preset"):
        asked = {"plan": "with", "hold": "without", "preset": "preset"}[mode]
        assert decide(Searcher(**{asked: short}), sub_goal(mode, 0.004), STATE, 0).settled
        assert not decide(Searcher(**{asked: long}), sub_goal(mode, 0.004), STATE, 0).settled
    # A change of the gripper is never too short.
    assert not decide(Searcher(**{"with": plan(grip=0.3)}), sub_goal("plan", 0.004), STATE, 0).settled


@pytest.mark.parametrize(("mode", "closedness"), [("close", 1.0), ("open", 0.0)])
def test_a_schedule_asks_nobody_but_waits_for_the_arm(mode, closedness):
    moving = Searcher(without=plan(move=0.03))
    assert decide(moving, sub_goal(mode), STATE, 0).grip is None
    still = Searcher(without=plan(gain=0.0))
    for grips in range(GRIP_STEPS):
        decision = decide(still, sub_goal(mode), STATE, grips)
        assert (decision.grip, decision.settled) == (closedness, False)
    decision = decide(still, sub_goal(mode), STATE, GRIP_STEPS)
    assert (decision.grip, decision.settled) == (None, True)
    assert set(still.asked) == {"without"}


def test_full_grip_goes_all_the_way_and_leaves_the_arm_alone():
    closing = full_grip(plan(move=0.01, grip=0.3), STATE)
    assert STATE.gripper + closing.action[6] == pytest.approx(1.0) and closing.action[0] == 0.01
    opening = full_grip(plan(grip=-0.3), STATE)
    assert STATE.gripper + opening.action[6] == pytest.approx(0.0)
    untouched = plan(move=0.01)
    assert full_grip(untouched, STATE) is untouched


def test_an_imagined_gain_from_opening_what_is_open_is_none():
    opening = Searcher(without=plan(gain=0.0), only=plan(grip=-0.7))
    still_open = RobotState(np.array([*STATE.vector[:6], 0.02]))
    assert decide(opening, sub_goal("settle_first"), still_open, 0).settled
    assert not decide(opening, sub_goal("settle_first"), STATE, 0).settled


def test_the_gripper_is_not_asked_for_ever():
    closing = Searcher(without=plan(gain=0.0), only=plan(grip=0.7))
    assert not decide(closing, sub_goal("settle_first"), STATE, GRIP_STEPS - 1).settled
    assert decide(closing, sub_goal("settle_first"), STATE, GRIP_STEPS).settled
