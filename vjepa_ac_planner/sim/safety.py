"""The safety layer of the simulated arm: in simulation too, no command goes around it."""

from __future__ import annotations

from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.sim.panda import WORKSPACE, PandaSim, Vector
from vjepa_ac_planner.types import Command, RobotState

STEP_SECONDS = 0.25
"""Time of one step, unless data is collected at another rate [s]."""


def sim_safety(step_seconds: float = STEP_SECONDS) -> SafetyConfig:
    """Limits of the simulated arm: the workspace that it was trained in, and what the planner may ask."""
    return SafetyConfig(
        MotionLimits(workspace_low=WORKSPACE.low, workspace_high=WORKSPACE.high, step_seconds=step_seconds)
    )


class Guarded:
    """Moves the arm to the poses of a script, through the safety layer.

    Args:
        sim: the arm.
        step_seconds: time of one command [s].
    """

    def __init__(self, sim: PandaSim, step_seconds: float = STEP_SECONDS) -> None:
        self._sim = sim
        self._safety = SafetyLayer(sim_safety(step_seconds))

    def move(self, target: Vector) -> Command:
        """One command towards ``target`` [7], cut to what one step allows; returns what was sent."""
        state = RobotState(self._sim.state(), stamp=self._sim.time)
        command = self._safety.toward(target, state, self._sim.time).command
        self._sim.apply(command)
        return command
