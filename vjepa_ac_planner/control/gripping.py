"""When the gripper has its say: what is planned for one step of a sub-goal.

Searched together with the arm, the gripper is closed as soon as that makes the picture a little more like
the goal, which may be on the way: an energy that averages over the whole image hardly sees the fingers.
Here the arm goes first, and the gripper's turn comes when the arm has nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vjepa_ac_planner.control.goals import SubGoal
from vjepa_ac_planner.planning.proposals import GripperSearch
from vjepa_ac_planner.types import Plan, RobotState

GRIP_STEPS = 3
"""Steps in a row that are given to the gripper alone: it has come to where it can by then."""
_SOME = 0.1
"""A change of the closedness that is at least worth a step."""

Search = Callable[[GripperSearch | None], Plan]


@dataclass(frozen=True)
class Decision:
    """What to do in one step."""

    plan: Plan
    """What was planned; its evidence stands even where something else is done."""
    settled: bool
    """Whether neither arm nor gripper gains anything."""
    grip: float | None = None
    """Closedness to go to with the arm at rest, instead of the plan; None carries the plan out."""


def decide(search: Search, sub_goal: SubGoal, state: RobotState, grips: int) -> Decision:
    """Plan one step.

    Args:
        search: makes a plan; told what to search of the gripper.
        sub_goal: what to reach, and how the gripper is treated.
        state: of the arm now.
        grips: steps in a row, up to now, that were given to the gripper alone.

    Raises:
        PlannerError: (from ``search``) there is no plan.
    """
    below = sub_goal.until.settled_below
    if sub_goal.gripper in ("preset", "plan"):
        plan = search("with" if sub_goal.gripper == "plan" else None)
        return Decision(plan, not _gains(plan, below))
    arm = search("without")
    if sub_goal.gripper == "hold" or _gains(arm, below):
        return Decision(arm, not _gains(arm, below))
    if grips >= GRIP_STEPS:
        return Decision(arm, settled=True)
    if sub_goal.gripper == "settle_first":
        fingers = search("only")
        gains = fingers.improves and abs(_possible(fingers, state)) >= _SOME
        return Decision(fingers, settled=False) if gains else Decision(arm, settled=True)
    return Decision(arm, settled=False, grip=1.0 if sub_goal.gripper == "close" else 0.0)


def full_grip(plan: Plan, state: RobotState) -> Plan:
    """The plan with the first change of the gripper, if there is one, taken all the way."""
    change = plan.action[6]
    if change == 0.0:
        return plan
    actions = np.array(plan.actions)
    actions[0, 6] = (1.0 if change > 0 else 0.0) - state.gripper
    return replace(plan, actions=actions)


def _possible(plan: Plan, state: RobotState) -> float:
    """The planned change of closedness that the gripper can make: an open one opens no further.

    A model may well imagine a gain from opening it all the same.
    """
    return float(np.clip(state.gripper + plan.action[6], 0.0, 1.0) - state.gripper)


def _gains(plan: Plan, below: float) -> bool:
    """Whether a plan is predicted to come nearer to the goal by something worth a step."""
    if not plan.improves:
        return False
    moves = float(np.linalg.norm(plan.action[:3])) >= below
    return moves or bool(np.any(plan.action[3:]))
