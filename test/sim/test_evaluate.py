"""The evaluation's figures, and the loop it runs."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.sim.baselines import PixelOracleModel, RandomPlanner
from vjepa_ac_planner.sim.evaluate import ReachResult, evaluate_reach, summarise, wilson_interval
from vjepa_ac_planner.sim.panda import WORKSPACE, PandaSim
from vjepa_ac_planner.sim.tasks import Task
from vjepa_ac_planner.types import Goal, Observation, Plan


class StraightPlanner:
    """Knows the goal position: what the loop gives when the planner is right."""

    def __init__(self, task: Task) -> None:
        self.goal = task.goal_position

    def plan(self, observation: Observation, goal: Goal, **options: object) -> Plan:
        state = observation.state.vector
        action = np.zeros(7)
        action[:3] = np.clip(self.goal - state[:3], -0.075, 0.075)
        moved = np.linalg.norm(action) > 0.004
        return Plan(
            action[None],
            np.stack([state, state]),
            energy=0.0 if moved else 1.0,
            zero_energy=0.5,
            current_energy=0.5,
            iterations=(),
            evaluations=1,
            seed=0,
            stop_reason="iterations",
            stamp=observation.frame.stamp,
        )


def test_a_planner_that_is_right_reaches_every_goal(sim: PandaSim) -> None:
    summary = evaluate_reach(StraightPlanner, range(4), sim)
    assert summary["success_rate"] == 1.0 and summary["trials"] == 4 and summary["seeds"] == [0, 1, 2, 3]
    assert summary["median_final_error_m"] < 0.005
    by_step = summary["mean_error_by_step_m"]
    assert len(by_step) == 13 and 0.15 < by_step[0] < 0.35
    assert all(later <= earlier + 2e-3 for earlier, later in pairwise(by_step))
    assert {episode["stop_reason"] for episode in summary["episodes"]} == {"settled"}
    assert json.loads(json.dumps(summary)) == json.loads(json.dumps(summary))


def test_random_actions_do_not_reach_it(sim: PandaSim) -> None:
    positions = []
    summary = evaluate_reach(
        lambda task: RandomPlanner(),
        range(3),
        sim,
        on_episode=lambda task, episode, result: positions.extend(
            step.command.target[:3] for step in episode.steps
        ),
    )
    assert summary["success_rate"] < 1.0 and len(positions) == 36
    assert all(WORKSPACE.contains(position, 1e-9) for position in positions)


def test_pixel_oracle_predicts_the_true_picture(sim: PandaSim) -> None:
    """Its energy for an action is that of the picture which the action really brings about."""
    import torch

    sim.reset(3)
    model = PixelOracleModel(sim, sim.objects(), 32)
    observation = sim.observe()
    z0 = model.encode([observation.frame])[0]
    s0 = torch.tensor(observation.state.vector)
    action = torch.zeros(1, 2, 7, dtype=torch.float64)
    action[0, 0, 0] = action[0, 1, 1] = 0.05
    latents, states = model.rollout(z0, s0, action)
    assert latents.shape == (1, 2, 32 * 32, 3) and states.shape == (1, 3, 7)
    sim.reset_to(states[0, 2].numpy())
    assert torch.equal(latents[0, 1], model.encode([sim.observe().frame])[0])
    assert not torch.equal(latents[0, 0], latents[0, 1])


def test_pixel_oracle_comes_nearer(sim: PandaSim, shared_sim: PandaSim) -> None:
    overrides = {"cem": {"samples": 12, "elites": 3, "iterations": 2, "keep_elites": 1}}
    config = PlannerConfig.preset("demo", overrides)
    with PandaSim(sim.config) as imagination:
        summary = evaluate_reach(
            lambda task: Planner(PixelOracleModel(imagination, sim.objects(), 32), config),
            [1],
            sim,
            max_steps=4,
        )
    by_step = summary["mean_error_by_step_m"]
    assert by_step[-1] < 0.6 * by_step[0]


def test_summary_counts_the_end_and_not_the_best_moment() -> None:
    near_then_away = ReachResult(1, False, (0.2, 0.01, 0.1), 2, "max steps", (0.1, 0.3))
    there = ReachResult(2, True, (0.3, 0.02), 1, "settled", (0.2,))
    summary = summarise([near_then_away, there], max_steps=2)
    assert summary["success_rate"] == 0.5
    assert summary["mean_error_by_step_m"] == pytest.approx([0.25, 0.015, 0.06])
    assert summary["median_final_error_m"] == pytest.approx(0.06)
    assert summary["p50_plan_s"] == pytest.approx(0.2)


def test_no_seeds_is_an_error() -> None:
    with pytest.raises(ConfigError, match="seeds: received none"):
        summarise([], 12)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Reference values: Brown, Cai and DasGupta (2001) formula, computed independently.
    [(98, 100, 0.9300, 0.9945), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)
    assert found == pytest.approx((low, high), abs=2e-4)
    assert not any(map(math.isnan, found))
