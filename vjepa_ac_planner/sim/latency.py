"""A simulated arm that moves on while the planner thinks, in simulated time.

How long planning takes is a number and not this machine's speed, so that loops can be compared for the
latency of any machine, and give the same result every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Episode, LoopConfig, Plans, RecedingHorizon
from vjepa_ac_planner.control.pipeline import Foresees, Pipeline
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.planning.energy import LatentEnergy
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.safety import sim_safety
from vjepa_ac_planner.sim.tasks import REACHED, Task
from vjepa_ac_planner.types import Command, FloatArray, Goal, Observation, Plan


class MovingOn:
    """A simulation whose time goes on while others think; implements ``Overlaps``.

    Args:
        sim: the arm, at the start of its task; nobody else may use it meanwhile.
    """

    def __init__(self, sim: PandaSim) -> None:
        self._sim = sim
        self._now = sim.time
        self._command: Command | None = None
        self._seen: Observation | None = None

    @property
    def time(self) -> float:
        """Simulated time [s]; the physics follow when somebody looks."""
        return self._now

    def think(self, seconds: float) -> None:
        """Let time pass [s]."""
        self._now += seconds

    def observe(self) -> Observation:
        """The camera image and the state at this moment."""
        return self.newest()

    def newest(self) -> Observation:
        """See ``MovesOn``."""
        self._catch_up()
        if self._seen is None or self._seen.state.stamp != self._sim.time:
            self._seen = self._sim.observe()
        return self._seen

    def status(self) -> RobotStatus:
        """See ``ReportsStatus``."""
        return RobotStatus()

    def begin(self, command: Command) -> None:
        """See ``Overlaps``."""
        self._catch_up()
        self._command = command

    def finish(self) -> None:
        """See ``Overlaps``."""
        if self._command is not None:
            self._now = max(self._now, self._sim.time + self._command.duration)
        self._catch_up()

    def apply(self, command: Command) -> None:
        """See ``Environment``."""
        self.begin(command)
        self.finish()

    def _catch_up(self) -> None:
        """Bring the physics to this moment: the command that was begun, then holding."""
        command, self._command = self._command, None
        if command is not None:
            self._now = max(self._now, self._sim.time + command.duration)
            self._sim.apply(command)
        left = self._now - self._sim.time
        if left > 0.005:  # the arm's updates are 10 ms apart
            self._sim.apply(Command("hold", self._sim.reference(), left))
        self._now = self._sim.time


class Thinking:
    """A planner that takes a given time, on a simulation's clock.

    Args:
        planner: makes the plans.
        world: whose time passes.
        plan_s: time of a search [s].
        look_s: time from the exposure of a frame to its latent [s].
    """

    def __init__(self, planner: Foresees, world: MovingOn, plan_s: float, look_s: float) -> None:
        self._planner, self._world, self._plan_s, self._look_s = planner, world, plan_s, look_s

    def carried_out(self, plan: Plan, action: FloatArray) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.carried_out`."""
        return self._planner.carried_out(plan, action)

    def plan(self, observation: Observation, goal: Goal | Tensor, **options: Any) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.plan`."""
        plan = self._planner.plan(observation, goal, **options)
        self._world.think(self._plan_s + (self._look_s if observation.latent is None else 0.0))
        return plan

    def energy(self, observation: Observation, goal: Goal | Tensor) -> LatentEnergy:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.energy`."""
        self._world.think(self._look_s if observation.latent is None else 0.0)
        return self._planner.energy(observation, goal)


def run_with_latency(
    sim: PandaSim,
    task: Task,
    planner: Foresees,
    *,
    plan_s: float,
    look_s: float = 0.03,
    pipelined: bool = False,
    max_steps: int | None = None,
    loop: LoopConfig | None = None,
) -> tuple[Episode, Pipeline | None]:
    """One closed-loop run from a task's start, by an arm that does not wait for its planner.

    Stamps of the episode's observations are simulated time.

    Args:
        sim: the world, with the camera that the task was made with.
        task: start and goals.
        planner: plans every step.
        plan_s: time of a search [s].
        look_s: time from the exposure of a frame to its latent [s].
        pipelined: plan ahead while the arm moves.
        max_steps: most steps; None takes the task's.
        loop: when to end.

    Returns:
        The episode, and the pipeline with what became of its plans.
    """
    task.begin(sim)
    world = MovingOn(sim)
    thinking = Thinking(planner, world, plan_s, look_s)
    ahead = Pipeline(thinking, world) if pipelined else None
    makes: Plans = thinking if ahead is None else ahead
    horizon = RecedingHorizon(
        makes,
        SafetyLayer(sim_safety()),
        GoalChain(task.goals[-1]),
        loop or LoopConfig(),
        clock=lambda: world.time,
    )
    steps = task.max_steps if max_steps is None else max_steps
    return horizon.run(world if ahead is None else ahead, steps), ahead


@dataclass(frozen=True)
class TimedResult:
    """How one reach episode went, on the simulation's clock."""

    seed: int
    plan_s: float
    pipelined: bool
    success: bool
    """Whether the arm was at the goal at the end."""
    reached_s: float | None
    """When the loop first saw the arm within reach of the goal [s]; None if it never was."""
    final_error_m: float
    steps: int
    seconds: float
    """Until the end of the episode [s]."""
    fates: dict[str, int]
    """What became of the plans made ahead."""


def timed_result(task: Task, episode: Episode, pipeline: Pipeline | None, plan_s: float) -> TimedResult:
    """The figures of an episode that :func:`run_with_latency` ran."""
    seen = [*(step.observation for step in episode.steps), episode.final]
    start = seen[0].state.stamp
    errors = [float(np.linalg.norm(one.state.position - task.goal_position)) for one in seen]
    times = [one.state.stamp - start for one in seen]
    near = (now for now, error in zip(times, errors, strict=True) if error < REACHED)
    return TimedResult(
        seed=task.seed,
        plan_s=plan_s,
        pipelined=pipeline is not None,
        success=errors[-1] < REACHED,
        reached_s=next(near, None),
        final_error_m=errors[-1],
        steps=len(episode.steps),
        seconds=times[-1],
        fates={} if pipeline is None else {str(fate): count for fate, count in pipeline.fates.items()},
    )
