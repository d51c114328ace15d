"""Trials of planner and simulated robot, one seed after the other, over ROS alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vjepa_ac_planner.ros.remote import Remote

ENDED = ("settled", "done", "stopped", "paused")
"""States of the planner in which it has nothing more to do."""
SETTLE_SECONDS = 0.5
"""After the last action the arm may still be on its way [s]."""
STALL_SECONDS = 30.0
"""A trial ends when no plan has come for so long [s]."""
QUIET_SECONDS = 0.7
"""A planner that was disabled goes on holding for a while: the arm must not be taken away under it [s]."""


@dataclass
class Trial:
    """One seed, from the start of its task to the planner's end or the last step."""

    seed: int
    errors_m: list[float] = field(default_factory=list)
    """True distance to the goal [m]: at the start, at each plan after the first, and at the end."""
    plans: int = 0
    """Plans that were published."""
    ended: str = ""
    """The planner's last status, or what ended the trial."""
    success: bool = False
    """What the simulator says of the end."""
    seconds: float = 0.0
    """From enabling to the end [s]."""
    setpoints: dict[str, Any] = field(default_factory=dict)
    """What the arm's side counted: received, refused, gaps."""


class Trials(Remote):
    """Runs trials against the nodes ``planner`` and ``sim`` of this ROS domain."""

    def run(self, seed: int, max_plans: int, on_plan: Callable[[int, float], None]) -> Trial:
        """One trial; afterwards the planner is disabled.

        Args:
            seed: of the task.
            max_plans: the trial ends when so many plans were made.
            on_plan: told the number of each plan and the true error when it was made [m].

        Raises:
            NotReadyError: a node refused, or does not answer.
        """
        self.enable(False)
        self.spin(QUIET_SECONDS)
        self.trigger("planner/reset")
        self.set_seed(seed)
        trial = Trial(seed, [self.trigger("sim/reset")["error_m"]])
        self.give_goal()
        self.actions, self.status = 0, ""
        begin = time.monotonic()
        self.enable()
        while not self._ended() and self.actions < max_plans:
            if not self.spin(STALL_SECONDS, until=lambda: self.actions > trial.plans or self._ended()):
                break
            while trial.plans < self.actions:
                trial.plans += 1
                error = self.trigger("sim/score")["error_m"]
                if trial.plans > 1:
                    trial.errors_m.append(error)
                on_plan(trial.plans, error)
        self.spin(SETTLE_SECONDS)
        trial.seconds = time.monotonic() - begin
        planned = f"{self.actions} plans were made"
        trial.ended = self.status if self._ended() or self.actions < max_plans else planned
        self.enable(False)
        score = self.trigger("sim/score")
        trial.errors_m.append(score["error_m"])
        trial.success, trial.setpoints = score["success"], score["setpoints"]
        return trial

    def overhead(self) -> dict[str, Any]:
        """What the planner says of its own times, [p50, p95] in seconds, and of its setpoints."""
        self.diagnostics.clear()
        self.spin(2.0, until=lambda: "planner: setpoint stream" in self.diagnostics)
        planning = self.diagnostics.get("planner: planning", {})
        stream = self.diagnostics.get("planner: setpoint stream", {})
        return {
            "frame_to_plan_s": _numbers(planning, "frame arrival to plan start"),
            "plan_s": _numbers(planning, "plan [s]"),
            "command_to_setpoint_s": _numbers(stream, "newest command to its first setpoint"),
        }

    def _ended(self) -> bool:
        return self.status.partition(":")[0] in ENDED


def _numbers(values: dict[str, str], beginning: str) -> list[float] | None:
    """The numbers of the value whose key begins so."""
    text = next((value for key, value in values.items() if key.startswith(beginning)), "-")
    return None if text == "-" else [float(word) for word in text.split()]
