"""Closed-loop trials and their figures, for any planner.

Every command passes the safety layer. A trial ends after its steps, or when the goals are done, or when the
planner says that no action improves on standing still; it counts by how the world is *then*, not by the
best moment on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Episode, LoopConfig, Plans, RecedingHorizon, Step
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.safety import sim_safety
from vjepa_ac_planner.sim.tasks import PLACED, REACHED, Task, run
from vjepa_ac_planner.sim.truth import Witness, cause
from vjepa_ac_planner.statistics import wilson_interval
from vjepa_ac_planner.types import Observation


@dataclass(frozen=True)
class TrialResult:
    """How one trial went; distances are those of :meth:`~vjepa_ac_planner.sim.tasks.Task.error` [m]."""

    task: str
    seed: int
    success: bool
    errors_m: tuple[float, ...]
    """At the start, after each step, and so at the end."""
    steps: int
    stop_reason: str
    plan_s: tuple[float, ...]
    """Time of every step's planning [s]; none for a script."""
    cause: str = ""
    """Why it failed."""
    goals_done: int = 0
    """Goals left behind by their rules."""

    @property
    def start_error_m(self) -> float:
        """Distance at the start [m]."""
        return self.errors_m[0]

    @property
    def final_error_m(self) -> float:
        """Distance at the end [m]."""
        return self.errors_m[-1]


def run_episode(
    sim: PandaSim,
    task: Task,
    planner: Plans,
    *,
    goals: GoalChain | None = None,
    max_steps: int | None = None,
    loop: LoopConfig | None = None,
    reached: Callable[[Observation], bool] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Episode:
    """One closed-loop run from a task's start; the simulation is left where it ended.

    Args:
        sim: the world, with the camera that the task was made with.
        task: start and goals.
        planner: plans every step.
        goals: what to reach, and by which rules; None is the task's last goal.
        max_steps: most steps; None takes the task's.
        loop: when to end.
        reached: a further reason to end: asked before every step.
        on_step: called with every finished step.
    """
    task.begin(sim)
    horizon = RecedingHorizon(
        planner,
        SafetyLayer(sim_safety()),
        goals or GoalChain(task.goals[-1]),
        loop or LoopConfig(),
    )
    most = task.max_steps if max_steps is None else max_steps
    return horizon.run(sim, most, reached=reached, on_step=on_step)


def run_trial(
    sim: PandaSim,
    task: Task,
    planner: Plans,
    goals: GoalChain,
    *,
    max_steps: int | None = None,
    loop: LoopConfig | None = None,
    reached: Callable[[Observation], bool] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> tuple[TrialResult, Episode]:
    """One trial, judged by the truth of the simulation; see :func:`run_episode`."""
    task.begin(sim)
    witness = Witness(sim, task)

    def watch(step: Step) -> None:
        witness.on_step(step)
        if on_step is not None:
            on_step(step)

    episode = run_episode(
        sim,
        task,
        planner,
        goals=goals,
        max_steps=max_steps,
        loop=loop,
        reached=reached,
        on_step=watch,
    )
    witness.end()
    task.lift(sim)
    success = task.success(sim)
    result = TrialResult(
        task.name,
        task.seed,
        success,
        witness.errors,
        len(episode.steps),
        episode.stop_reason,
        episode.plan_seconds,
        "" if success else cause(task, episode, witness.moments, witness.look()),
        goals.index,
    )
    return result, episode


def run_oracle(sim: PandaSim, task: Task) -> TrialResult:
    """The scripted solution, judged by the same rule: what a planner can reach at most."""
    task.begin(sim)
    errors = [task.error(sim)]
    steps = run(sim, task.oracle(sim), lambda: errors.append(task.error(sim)))
    task.lift(sim)
    success = task.success(sim)
    reason = "" if success else "script"
    return TrialResult(task.name, task.seed, success, tuple(errors), steps, "script", (), reason)


def reach_result(task: Task, episode: Episode) -> TrialResult:
    """The figures of one finished reach, from what was observed."""

    def error(observation: Observation) -> float:
        return float(np.linalg.norm(observation.state.position - task.goal_position))

    errors = (*(error(step.observation) for step in episode.steps), error(episode.final))
    return TrialResult(
        task.name,
        task.seed,
        errors[-1] < REACHED,
        errors,
        len(episode.steps),
        episode.stop_reason,
        episode.plan_seconds,
    )


def summarise(results: Sequence[TrialResult], max_steps: int | None = None) -> dict[str, Any]:
    """The summary of some trials of one task, ready for JSON.

    ``success_rate`` with its 95% Wilson interval ``ci95``, ``causes`` of failure with their numbers,
    ``median_final_error_m``, ``mean_error_by_step_m`` (``max_steps + 1`` values; a trial that ended early
    stays at its last error), ``p50_plan_s``, ``p95_plan_s``, ``trials``, ``seeds`` and the ``episodes``
    themselves. Without ``max_steps`` those of the longest trial count.

    Raises:
        ConfigError: no results.
    """
    if not results:
        raise ConfigError("seeds: received none, at least one is needed")
    (task,) = {result.task for result in results}
    max_steps = max(result.steps for result in results) if max_steps is None else max_steps
    successes = sum(result.success for result in results)
    errors = np.array([_padded(result.errors_m, max_steps + 1) for result in results])
    plan_s = [seconds for result in results for seconds in result.plan_s]
    causes = Counter(result.cause or "failed" for result in results if not result.success)
    return {
        "task": task,
        "trials": len(results),
        "success_rate": successes / len(results),
        "ci95": list(wilson_interval(successes, len(results))),
        "causes": dict(causes.most_common()),
        "success_threshold_m": PLACED if task.startswith("pick_place") else REACHED,
        "max_steps": max_steps,
        "median_final_error_m": float(np.median(errors[:, -1])),
        "mean_final_error_m": float(errors[:, -1].mean()),
        "max_final_error_m": float(errors[:, -1].max()),
        "mean_error_by_step_m": errors.mean(axis=0).tolist(),
        "p50_plan_s": float(np.percentile(plan_s, 50)) if plan_s else math.nan,
        "p95_plan_s": float(np.percentile(plan_s, 95)) if plan_s else math.nan,
        "seeds": [result.seed for result in results],
        "episodes": [asdict(result) for result in results],
    }


def _padded(values: Iterable[float], length: int) -> list[float]:
    padded = list(values)[:length]
    return padded + [padded[-1]] * (length - len(padded))
