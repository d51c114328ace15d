"""Closed-loop evaluation of reaching, with its confidence interval, for any planner.

Every command passes the safety layer. An episode ends after ``max_steps``, or when the planner says
that no action improves on standing still; it counts by where the arm is *then*, not by the best moment
on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Episode, LoopConfig, Plans, RecedingHorizon, Step
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.safety import sim_safety
from vjepa_ac_planner.sim.tasks import REACHED, Task, make_task
from vjepa_ac_planner.types import Observation

MakePlanner = Callable[[Task], Plans]
"""Makes (or hands out) the planner for one episode; only the baselines look at the task."""


@dataclass(frozen=True)
class ReachResult:
    """How one reach episode went; distances are of link8 to the goal position [m]."""

    seed: int
    success: bool
    errors_m: tuple[float, ...]
    """At the start, after each step, and so at the end."""
    steps: int
    stop_reason: str
    plan_s: tuple[float, ...]
    """Time of every planning call [s]."""

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
    max_steps: int | None = None,
    safety: SafetyConfig | None = None,
    loop: LoopConfig | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Episode:
    """One closed-loop run from a task's start; the simulation is left where it ended.

    Args:
        sim: the world, with the camera that the task was made with.
        task: start and goals.
        planner: plans every step.
        max_steps: most steps; None takes the task's.
        safety: limits; None takes :func:`sim_safety`.
        loop: when to end.
        on_step: called with every finished step.
    """
    task.begin(sim)
    horizon = RecedingHorizon(
        planner, SafetyLayer(safety or sim_safety()), GoalChain(task.goals[-1]), loop or LoopConfig()
    )
    return horizon.run(sim, task.max_steps if max_steps is None else max_steps, on_step=on_step)


def evaluate_reach(
    make_planner: MakePlanner,
    seeds: Sequence[int],
    sim: PandaSim,
    *,
    max_steps: int = 12,
    safety: SafetyConfig | None = None,
    loop: LoopConfig | None = None,
    on_episode: Callable[[Task, Episode, ReachResult], None] | None = None,
) -> dict[str, Any]:
    """Run reach episodes and sum them up.

    Args:
        make_planner: gives the planner of each episode.
        seeds: one episode each; those from 100000 on are for the final evaluation only.
        sim: the world; its image size should be twice the model's, as in training.
        max_steps: most steps per episode.
        safety: limits; None takes :func:`sim_safety`.
        loop: when to end.
        on_episode: called after every episode, for progress and reports.

    Returns:
        The summary of :func:`summarise`.

    Raises:
        ConfigError: no seeds.
    """
    check_range("max_steps", max_steps, 1, 1000)
    results = []
    for seed in seeds:
        task = make_task("reach", seed, sim)
        episode = run_episode(sim, task, make_planner(task), max_steps=max_steps, safety=safety, loop=loop)
        result = reach_result(task, episode)
        results.append(result)
        if on_episode is not None:
            on_episode(task, episode, result)
    return summarise(results, max_steps)


def reach_result(task: Task, episode: Episode) -> ReachResult:
    """The figures of one finished reach episode."""

    def error(observation: Observation) -> float:
        return float(np.linalg.norm(observation.state.position - task.goal_position))

    errors = (*(error(step.observation) for step in episode.steps), error(episode.final))
    return ReachResult(
        task.seed,
        errors[-1] < REACHED,
        errors,
        len(episode.steps),
        episode.stop_reason,
        episode.plan_seconds,
    )


def summarise(results: Sequence[ReachResult], max_steps: int) -> dict[str, Any]:
    """The summary of some episodes, ready for JSON.

    ``success_rate`` with its 95% Wilson interval ``ci95``, ``median_final_error_m``,
    ``mean_error_by_step_m`` (``max_steps + 1`` values; an episode that ended early stays at its last
    error), ``p50_plan_s``, ``p95_plan_s``, ``trials``, ``seeds`` and the ``episodes`` themselves.

    Raises:
        ConfigError: no results.
    """
    if not results:
        raise ConfigError("seeds: received none, at least one is needed")
    successes = sum(result.success for result in results)
    errors = np.array([_padded(result.errors_m, max_steps + 1) for result in results])
    plan_s = [seconds for result in results for seconds in result.plan_s]
    return {
        "task": "reach",
        "trials": len(results),
        "success_rate": successes / len(results),
        "ci95": list(wilson_interval(successes, len(results))),
        "success_threshold_m": REACHED,
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


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a success rate; unlike the normal one it is right near 0 and 1.

    Args:
        successes: number of successes.
        trials: number of trials, at least 1.
        z: quantile of the normal distribution; 1.96 for 95%.
    """
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (
        0.0 if successes == 0 else max(0.0, centre - half),
        1.0 if successes == trials else min(1.0, centre + half),
    )


def _padded(values: Iterable[float], length: int) -> list[float]:
    padded = list(values)[:length]
    return padded + [padded[-1]] * (length - len(padded))
