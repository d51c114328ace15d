"""How the parts of the node are doing, as one diagnostic status each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.limits import Finding
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.control.pipeline import Fate
from vjepa_ac_planner.control.safety import SafetyConfig
from vjepa_ac_planner.planning.planner import PlanningModel
from vjepa_ac_planner.ros import diagnostics
from vjepa_ac_planner.ros.gripper import Gripper
from vjepa_ac_planner.ros.inputs import GRIPPER_AGE, STATUS_AGE, Topic
from vjepa_ac_planner.ros.runner import GuardedPlanner
from vjepa_ac_planner.ros.setpoints import SetpointThread

LEVELS = {
    "holding": diagnostics.WARN,
    "paused": diagnostics.ERROR,
    "failing": diagnostics.ERROR,
}
"""Of the states that are not in order."""


@dataclass(frozen=True)
class Health:
    """What is known of the parts at one moment."""

    state: str
    """Of the session, such as ``moving``."""
    reason: str
    """Why it is in that state; may be empty."""
    topics: Mapping[str, Topic]
    """Every input by what it brings."""
    limits: SafetyConfig
    """The robot's."""
    model: PlanningModel
    planner: GuardedPlanner
    ahead: Mapping[Fate, int] | None
    """What became of the plans made ahead; None without pipelining."""
    goals: GoalChain | None
    last: Step | None
    """The newest step of any run."""
    steps: int
    """How many there were."""
    enabled: bool
    robot: RobotStatus
    publishers: int
    """Of commands to the arm, this node included."""
    paused: Finding | None
    setpoints: SetpointThread | None
    gripper: Gripper

    def statuses(self) -> Iterator[Any]:
        """All parts: inputs, planning, safety, setpoint stream, gripper."""
        bounds = {
            "camera": self.limits.max_image_age,
            "end-effector pose": self.limits.max_state_age,
            "gripper": GRIPPER_AGE,
            "robot state": STATUS_AGE,
        }
        for what, topic in self.topics.items():
            yield diagnostics.topic(topic, bounds.get(what, 0.0), required=what in bounds)
        yield self._planning()
        yield self._safety()
        if self.setpoints is not None:
            yield diagnostics.stream(self.setpoints.statistics, self.setpoints.period, self.setpoints.mode)
        problem = self.gripper.problem()
        level = diagnostics.WARN if problem else diagnostics.OK
        yield diagnostics.status("gripper command", level, problem or self.gripper.status())

    def _planning(self) -> Any:
        planner, goals = self.planner, self.goals
        plan = None if self.last is None else self.last.plan
        values = {
            "model": self.model.description.name,
            "device": self.model.device,
            "goal": "none"
            if goals is None
            else f"{goals.current.name} ({min(goals.index + 1, len(goals))} of {len(goals)})",
            "steps": self.steps,
            "plans": len(planner.seconds),
            "failed plans": planner.failures,
            "plan [s], p50 p95": diagnostics.percentiles(tuple(planner.seconds)),
            "frame arrival to plan start [s], p50 p95": diagnostics.percentiles(tuple(planner.waits)),
            "energy": "-" if plan is None else plan.current_energy,
            "surprise": "-" if plan is None or plan.surprise is None else plan.surprise,
        }
        if self.ahead is not None:
            ahead = dict(self.ahead)  # at once: the planning thread goes on counting
            fates = ", ".join(f"{count} {fate}" for fate, count in sorted(ahead.items()))
            values["plans made ahead"] = fates or "none yet"
        level = LEVELS.get(self.state, diagnostics.OK)
        message = f"{self.state}: {self.reason}" if self.reason else self.state
        return diagnostics.status("planning", level, message, values)

    def _safety(self) -> Any:
        values = {
            "robot mode": self.robot.mode,
            "robot errors": ", ".join(self.robot.errors) or "none",
            "publishers of commands": self.publishers,
            "dry run": self.limits.dry_run,
        }
        if self.paused is not None:
            return diagnostics.status("safety", diagnostics.ERROR, f"paused: {self.paused}", values)
        findings = () if self.last is None or not self.enabled else self.last.findings
        level = diagnostics.WARN if findings else diagnostics.OK
        return diagnostics.status("safety", level, "; ".join(map(str, findings)) or "in order", values)
