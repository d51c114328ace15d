"""The evaluation's figures, and the loop it runs."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.baselines import PixelOracleModel, RandomPlanner
from vjepa_ac_planner.sim.evaluate import (
    TrialResult,
    run_oracle,
    run_trial,
    summarise,
)
from vjepa_ac_planner.sim.panda import WORKSPACE, PandaSim
from vjepa_ac_planner.sim.protocol import PROTOCOLS, Protocol, goal_chain, loop_config, max_steps
from vjepa_ac_planner.sim.tasks import Task, make_task
from vjepa_ac_planner.types import Command, Goal, Observation, Plan


class KnowingPlanner:
    """Knows the arm's state in every goal image: what the loop gives when the planner is right."""

    def __init__(self, task: Task, chain: GoalChain) -> None:
        self._states = dict(zip(map(id, chain.goals), task.goal_states[-len(chain) :], strict=True))

    def plan(self, observation: Observation, goal: Goal, **options: object) -> Plan:
        state, target = observation.state.vector, self._states[id(goal)]
        action = np.zeros(7)
        if options["gripper"] != "only":
            action[:3] = np.clip(target[:3] - state[:3], -0.075, 0.075)
        if options["gripper"] in ("with", "only") and abs(target[6] - state[6]) > 0.1:
            action[6] = target[6] - state[6]
        gains = np.linalg.norm(action[:3]) > 0.004 or action[6] != 0.0
        return Plan(
            action[None],
            np.stack([state, state]),
            energy=0.0 if gains else 1.0,
            zero_energy=0.5,
            current_energy=0.5,
            iterations=(),
            evaluations=1,
            seed=0,
            stop_reason="iterations",
            stamp=observation.frame.stamp,
        )

    def carried_out(self, plan: Plan, action: np.ndarray) -> Plan:
        return plan


def trial(sim: PandaSim, name: str, seed: int, protocol: Protocol) -> TrialResult:
    task = make_task(name, seed, sim, sub_goals=protocol.sub_goals)
    chain = goal_chain(task, protocol)
    loop = loop_config(task, protocol, seed)
    most = max_steps(task, protocol)
    return run_trial(sim, task, KnowingPlanner(task, chain), chain, max_steps=most, loop=loop)[0]


def test_a_planner_that_is_right_reaches_every_goal(sim: PandaSim) -> None:
    results = [trial(sim, "reach", seed, Protocol()) for seed in range(4)]
    summary = summarise(results, 12)
    assert summary["success_rate"] == 1.0 and summary["trials"] == 4 and summary["seeds"] == [0, 1, 2, 3]
    assert summary["median_final_error_m"] < 0.005 and summary["causes"] == {}
    by_step = summary["mean_error_by_step_m"]
    assert len(by_step) == 13 and 0.15 < by_step[0] < 0.35
    assert all(later <= earlier + 2e-3 for earlier, later in pairwise(by_step))
    assert {episode["stop_reason"] for episode in summary["episodes"]} == {"settled"}
    # All but tuples, which JSON does not know, comes back as it was: no array, no number of NumPy's.
    for episode in summary["episodes"]:
        episode |= {name: list(episode[name]) for name in ("errors_m", "plan_s")}
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize(
    "task", ["grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box"]
)
@pytest.mark.parametrize(("gripper", "sub_goals"), [("settle_first", "fine"), ("schedule", "paper")])
def test_the_goal_logic_solves_every_task_for_a_planner_that_is_right(
    sim: PandaSim, task: str, gripper: str, sub_goals: str
) -> None:
    protocol = Protocol(gripper=gripper, sub_goals=sub_goals)  # type: ignore[arg-type]
    result = trial(sim, task, 0, protocol)
    assert (result.cause, result.success) == ("", True)


def test_the_papers_protocol_ends_after_its_steps(sim: PandaSim) -> None:
    result = trial(sim, "pick_place_cup", 0, PROTOCOLS["paper"])
    assert (
        result.steps == 22 and result.goals_done == 3 and result.stop_reason in ("goals done", "max steps")
    )


def test_random_actions_do_not_reach_it(sim: PandaSim) -> None:
    for seed in range(3):
        task = make_task("reach", seed, sim)
        result, episode = run_trial(sim, task, RandomPlanner(), GoalChain(task.goals[-1]))
        assert not result.success and result.steps == 12 and result.cause == "out of steps"
        assert all(WORKSPACE.contains(step.command.target[:3], 1e-9) for step in episode.steps)


def test_the_oracle_is_judged_by_the_same_rule(sim: PandaSim) -> None:
    task = make_task("grasp_box", 0, sim)
    solved = run_oracle(sim, task)
    assert solved.success
    assert len(solved.errors_m) == solved.steps + 1 > 3  # at the start, and after each step
    assert solved.errors_m[0] > 0.1 > solved.errors_m[2] > 0.01 > solved.errors_m[-1]

    class Idle(Task):
        def oracle(self, sim: PandaSim) -> oracle.Script:
            return iter(())

    idle = Idle(**{name: getattr(task, name) for name in task.__dataclass_fields__})
    result = run_oracle(sim, idle)
    assert not result.success and result.steps == 0 and len(result.errors_m) == 1


def test_pixel_oracle_predicts_the_true_picture(sim: PandaSim) -> None:
    """Its energy for an action is that of the picture which the action really brings about."""
    import torch

    sim.reset(3)
    with PandaSim(sim.config) as imagination:
        model = PixelOracleModel(imagination, sim, 32)
        observation = sim.observe()
        z0 = model.encode([observation.frame])[0]
        s0 = torch.tensor(observation.state.vector)
        action = torch.zeros(1, 2, 7, dtype=torch.float64)
        action[0, 0, 0] = action[0, 1, 1] = 0.05
        latents, states = model.rollout(z0, s0, action)
    assert latents.shape == (1, 2, 32 * 32, 3) and states.shape == (1, 3, 7)
    np.testing.assert_array_equal(sim.state(), observation.state.vector)  # only imagined
    for state, latent in zip(states[0, 1:], latents[0], strict=True):
        sim.apply(Command("move", state.numpy(), 0.25))
        assert torch.equal(latent, model.encode([sim.observe().frame])[0])
    assert not torch.equal(latents[0, 0], latents[0, 1])


def test_pixel_oracle_comes_nearer(sim: PandaSim) -> None:
    overrides = {"cem": {"samples": 12, "elites": 3, "iterations": 2, "keep_elites": 1}}
    config = PlannerConfig.preset("demo", overrides)
    task = make_task("reach", 1, sim)
    with PandaSim(sim.config) as imagination:
        planner = Planner(PixelOracleModel(imagination, sim, 32), config)
        result, _ = run_trial(sim, task, planner, GoalChain(task.goals[-1]), max_steps=4)
    assert result.final_error_m < 0.6 * result.start_error_m


def test_summary_counts_the_end_and_not_the_best_moment() -> None:
    near_then_away = TrialResult(
        "reach", 1, False, (0.2, 0.01, 0.1), 2, "max steps", (0.1, 0.3), "out of steps"
    )
    there = TrialResult("reach", 2, True, (0.3, 0.02), 1, "settled", (0.2,))
    summary = summarise([near_then_away, there], max_steps=2)
    assert summary["success_rate"] == 0.5 and summary["causes"] == {"out of steps": 1}
    assert summary["mean_error_by_step_m"] == pytest.approx([0.25, 0.015, 0.06])
    assert summary["median_final_error_m"] == pytest.approx(0.06)
    assert summary["p50_plan_s"] == pytest.approx(0.2)
    assert len(summarise([near_then_away, there])["mean_error_by_step_m"]) == 3


def test_no_seeds_is_an_error() -> None:
    with pytest.raises(ConfigError, match="seeds: received none"):
        summarise([], 12)
