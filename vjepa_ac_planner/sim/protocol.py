"""How a task is put to a planner: which sub-goals, when they switch, how the gripper is treated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.control.goals import GoalChain, Gripper, SubGoal, SwitchRule
from vjepa_ac_planner.control.mpc import LoopConfig
from vjepa_ac_planner.sim.stages import Stage
from vjepa_ac_planner.sim.tasks import SubGoals, Task
from vjepa_ac_planner.types import Goal, RobotState

GRACE = 4
"""Steps beyond its own that a sub-goal may take where the energy decides when to leave it."""


@dataclass(frozen=True)
class Protocol:
    """The goal logic of an evaluation; each piece can be switched off by itself."""

    sub_goals: SubGoals = "fine"
    """The paper's goal images (grasped; grasped, near, placed), or finer ones (above, grasped, lifted,
    near, placed)."""
    switch: Literal["steps", "energy"] = "energy"
    """Whether a sub-goal is left after its number of steps, or as soon as no plan gains anything more, at
    the latest four steps after that."""
    gripper: Literal["plan", "settle_first", "schedule"] = "schedule"
    """Whether the gripper is searched together with the arm (the paper); alone, once the arm has nothing
    to gain; or is told to close or open then, as the small models' energy hardly sees it."""
    full_grip: bool = True
    """Whether a planned change of the gripper goes all the way."""
    settled_below: float = ranged(0.004, low=0.0, high=0.05, unit="m")
    """A plan that would move the hand by less than this gains nothing [m]."""
    known_states: bool = False
    """Whether the planner is told the arm's state in the goal images."""
    randomise: float = ranged(0.0, low=0.0, high=1.0)
    """How far the looks of the scenes go from the plain one."""

    def __post_init__(self) -> None:
        check_ranges(self)


PROTOCOLS = {
    "paper": Protocol(
        sub_goals="paper", switch="steps", gripper="plan", full_grip=False, settled_below=0.0
    ),
    "long": Protocol(),
}
"""Named ones: what the paper describes, and what this project does."""


def goal_chain(task: Task, protocol: Protocol) -> GoalChain:
    """The goals of a task with the rules of a protocol.

    A reach is one goal that is never left: the run ends when the arm has settled, or its steps are used
    up.
    """
    goals = [
        replace(goal, state=RobotState(state)) if protocol.known_states else goal
        for goal, state in zip(task.goals, task.goal_states, strict=True)
    ]
    if task.object is None:
        return GoalChain(goals[-1])
    if task.name == "reach_with_object":
        return GoalChain(SubGoal(goals[-1], gripper=_gripper(task.stages[-1], protocol)))
    return GoalChain(
        [_sub_goal(goal, stage, protocol) for goal, stage in zip(goals, task.stages, strict=True)]
    )


def _sub_goal(goal: Goal, stage: Stage, protocol: Protocol) -> SubGoal:
    until = SwitchRule(
        max_steps=_most_steps(stage, protocol),
        settled_steps=1 if protocol.switch == "energy" else None,
        settled_below=protocol.settled_below,
    )
    return SubGoal(goal, until, _gripper(stage, protocol), protocol.full_grip)


def max_steps(task: Task, protocol: Protocol) -> int:
    """Steps of a whole trial at most."""
    if len(task.goals) == 1 and not task.stages[0].grip:  # a reach, which is never left
        return task.max_steps
    return sum(_most_steps(stage, protocol) for stage in task.stages)


def _most_steps(stage: Stage, protocol: Protocol) -> int:
    return stage.steps + (GRACE if protocol.switch == "energy" else 0)


def _gripper(stage: Stage, protocol: Protocol) -> Gripper:
    if protocol.gripper == "plan":
        return "plan"
    if not stage.grip:
        return "hold"
    return stage.grip if protocol.gripper == "schedule" else "settle_first"


def loop_config(task: Task, protocol: Protocol, seed: int) -> LoopConfig:
    """When a run of a task ends by itself: sub-goals that count steps are given all of them."""
    counts = protocol.switch == "steps" and len(task.goals) > 1
    default = LoopConfig(seed=seed)
    return replace(default, settled_holds=None) if counts else default
