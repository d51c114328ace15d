"""How the parts of the node are doing, as one diagnostic status each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.planning.planner import PlanningModel
from vjepa_ac_planner.ros import diagnostics
from vjepa_ac_planner.ros.actuation import Actuation
from vjepa_ac_planner.ros.inputs import GRIPPER_AGE, STATUS_AGE, Topic
from vjepa_ac_planner.ros.jobs import Jobs
from vjepa_ac_planner.ros.status import StatusLine

LEVELS = {
    "holding": diagnostics.WARN,
    "paused": diagnostics.ERROR,
    "failing": diagnostics.ERROR,
}
"""Of the states that are not in order."""


@dataclass(frozen=True)
class Health:
    """Asks the parts of a configured node how they are."""

    status: StatusLine
    topics: Mapping[str, Topic]
    """Every input by what it brings."""
    model: PlanningModel
    jobs: Jobs
    safety: SafetyLayer
    actuation: Actuation

    def statuses(self) -> Iterator[Any]:
        """All parts: inputs, planning, safety, setpoint stream, gripper."""
        limits, gripper, setpoints = self.safety.config, self.actuation.gripper, self.actuation.setpoints
        bounds = {
            "camera": limits.max_image_age,
            "end-effector pose": limits.max_state_age,
            "gripper": GRIPPER_AGE,
            "robot state": STATUS_AGE,
        }
        for what, topic in self.topics.items():
            yield diagnostics.topic(topic, bounds.get(what, 0.0), required=what in bounds)
        yield self._planning()
        yield self._safety()
        if setpoints is not None:
            yield diagnostics.stream(setpoints.statistics, setpoints.period, setpoints.mode)
        problem = gripper.problem()
        level = diagnostics.WARN if problem else diagnostics.OK
        yield diagnostics.status("gripper command", level, problem or gripper.status())

    def _planning(self) -> Any:
        planner, goals, pipeline = self.jobs.planner, self.jobs.goals, self.jobs.pipeline
        plan = None if self.jobs.last is None else self.jobs.last.plan
        state, reason = self.status.state, self.status.reason
        values = {
            "model": self.model.description.name,
            "device": self.model.device,
            "goal": "none"
            if goals is None
            else f"{goals.current.name} ({min(goals.index + 1, len(goals))} of {len(goals)})",
            "steps": self.jobs.steps,
            "plans": planner.made,
            "failed plans": planner.failures,
            "plan [s], p50 p95": diagnostics.percentiles(tuple(planner.seconds)),
            "frame arrival to plan start [s], p50 p95": diagnostics.percentiles(tuple(planner.waits)),
            "energy": "-" if plan is None else plan.current_energy,
            "surprise": "-" if plan is None or plan.surprise is None else plan.surprise,
        }
        if pipeline is not None:
            ahead = dict(pipeline.fates)  # at once: the planning thread goes on counting
            fates = ", ".join(f"{count} {fate}" for fate, count in sorted(ahead.items()))
            values["plans made ahead"] = fates or "none yet"
        level = LEVELS.get(state, diagnostics.OK)
        message = f"{state}: {reason}" if reason else state
        return diagnostics.status("planning", level, message, values)

    def _safety(self) -> Any:
        robot, last, paused = self.actuation.known_status(), self.jobs.last, self.safety.paused
        values = {
            "robot mode": robot.mode,
            "robot errors": ", ".join(robot.errors) or "none",
            "publishers of commands": self.actuation.publishers,
            "dry run": self.safety.config.dry_run,
        }
        if paused is not None:
            return diagnostics.status("safety", diagnostics.ERROR, f"paused: {paused}", values)
        findings = () if last is None or not self.actuation.enabled else last.findings
        level = diagnostics.WARN if findings else diagnostics.OK
        return diagnostics.status("safety", level, "; ".join(map(str, findings)) or "in order", values)
