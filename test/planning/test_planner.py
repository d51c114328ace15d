"""The planner on the golden model: evidence, seeds, warm start, and what it refuses."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError, InputError, PlanCancelled, PlanningError
from vjepa_ac_planner.planning import presets
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.energy import latent_energy
from vjepa_ac_planner.planning.landscape import energy_landscape
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

CONFIG = PlannerConfig(horizon=2, cem=CEMConfig(samples=12, elites=4, iterations=3))
STATE = [0.45, 0.05, 0.35, -3.05, 0.03, -1.91, 0.1]


def frame(seed, stamp=0.0):
    return Frame(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8), stamp)


OBSERVATION = Observation(frame(0, stamp=12.5), RobotState(STATE, 12.5))
GOAL = Goal(frame(1))


@pytest.fixture(scope="module")
def planner(mini_model):
    return Planner(mini_model, CONFIG)


@pytest.fixture(scope="module")
def plan(planner):
    return planner.plan(OBSERVATION, GOAL)


def test_the_golden_action_through_the_whole_planner(golden, mini_model):
    class Recorded:
        """The golden model, looking at the recorded latent."""

        device, description, rollout = mini_model.device, mini_model.description, mini_model.rollout

        def encode(self, images):
            return torch.from_numpy(golden["roll_z0"])

    config = PlannerConfig(
        horizon=2, search=SearchConfig(xyz=0.05), cem=CEMConfig(samples=24, elites=6, iterations=4)
    )
    state = RobotState(golden["roll_s0"][0])
    plan = Planner(Recorded(), config).plan(
        Observation(frame(0), state),
        torch.from_numpy(golden["roll_zg"][0]),
        noise=torch.from_numpy(golden["cem_noise"]).permute(0, 2, 1, 3),
    )
    np.testing.assert_allclose(plan.actions, golden["cem_action"], atol=1e-4)


def test_every_plan_carries_its_evidence(plan, mini_model):
    assert plan.actions.shape == (2, 7)
    assert plan.predicted_states.shape == (3, 7)
    np.testing.assert_allclose(plan.predicted_states[0], STATE, atol=1e-6)
    np.testing.assert_allclose(
        plan.predicted_states[-1, :3], np.array(STATE[:3]) + plan.actions[:, :3].sum(0), atol=1e-6
    )
    assert plan.evaluations == 36
    assert len(plan.iterations) == 3
    assert (plan.stop_reason, plan.seed, plan.stamp) == ("iterations", 0, 12.5)
    assert set(plan.timings) == {"encode", "optimise", "evidence", "total"}
    parts = sum(plan.timings[key] for key in ("encode", "optimise", "evidence"))
    assert plan.timings["total"] == pytest.approx(parts, abs=1e-3)
    assert len(plan.predicted_energies) == 2
    assert plan.predicted_energies[-1] == pytest.approx(plan.energy)
    assert plan.predicted_latent.shape == (16, 128)
    assert plan.surprise is None


def test_energies_are_those_of_the_model(plan, mini_model):
    z0, zg = mini_model.encode([OBSERVATION.frame, GOAL.frame])
    assert plan.current_energy == pytest.approx(latent_energy(z0, zg).item(), rel=1e-5)
    actions = torch.stack((torch.tensor(plan.actions).float(), torch.zeros(2, 7)))
    latents, _ = mini_model.rollout(z0, torch.tensor(STATE), actions)
    energies = latent_energy(latents[:, -1], zg)
    assert [plan.energy, plan.zero_energy] == pytest.approx(energies.tolist(), rel=1e-5)
    assert plan.energy <= plan.iterations[0].elite_mean_energy


def test_same_seed_same_plan(planner, plan):
    again = planner.plan(OBSERVATION, GOAL)
    np.testing.assert_array_equal(again.actions, plan.actions)
    other = planner.plan(OBSERVATION, GOAL, seed=1)
    assert not np.array_equal(other.actions, plan.actions)
    assert other.seed == 1


def test_the_chunk_does_not_change_the_plan(mini_model, plan):
    chunked = Planner(mini_model, replace(CONFIG, chunk=5)).plan(OBSERVATION, GOAL)
    np.testing.assert_array_equal(chunked.actions, plan.actions)


def test_a_goal_latent_is_as_good_as_the_goal_image(planner, plan):
    latent = planner.encode_goal(GOAL)
    np.testing.assert_array_equal(planner.plan(OBSERVATION, latent).actions, plan.actions)


def test_goal_latents_are_kept_by_identity(mini_model):
    seen = []

    class Counting:
        device, description, rollout = mini_model.device, mini_model.description, mini_model.rollout

        def encode(self, images):
            seen.append(len(images))
            return mini_model.encode(images)

    planner = Planner(Counting(), CONFIG)
    first = planner.encode_goal(GOAL)
    assert planner.encode_goal(GOAL) is first
    assert len(seen) == 1
    planner.encode_goal(Goal(GOAL.frame))
    assert len(seen) == 2


def test_the_margin_raises_the_bar(mini_model, plan):
    strict = Planner(mini_model, replace(CONFIG, hold_margin=0.5)).plan(OBSERVATION, GOAL)
    assert strict.energy == pytest.approx(plan.energy)
    assert not strict.improves
    assert plan.improves == (plan.energy < plan.zero_energy)


def test_when_the_goal_is_what_is_predicted_for_standing_still_nothing_improves(mini_model, planner):
    z0 = mini_model.encode([OBSERVATION.frame])[0]
    latents, _ = mini_model.rollout(z0, torch.tensor(STATE), torch.zeros(1, 2, 7))
    plan = planner.plan(OBSERVATION, latents[0, -1])
    assert plan.zero_energy == pytest.approx(0.0, abs=1e-6)
    assert not plan.improves


def test_surprise_compares_what_is_seen_with_what_the_last_plan_expected(planner, plan, mini_model):
    observation = Observation(frame(2), RobotState(STATE))
    following = planner.plan(observation, GOAL, warm_start=plan)
    z0 = mini_model.encode([observation.frame])[0]
    assert following.surprise == pytest.approx(latent_energy(z0, plan.predicted_latent).item(), rel=1e-5)


def test_warm_start_begins_at_the_shifted_plan(mini_model, plan):
    frozen = CEMConfig(samples=12, elites=4, iterations=1, momentum_mean=0.999, momentum_mean_gripper=0.999)
    warm = Planner(mini_model, replace(CONFIG, cem=frozen, warm_start=True))
    following = warm.plan(OBSERVATION, GOAL, warm_start=plan)
    np.testing.assert_allclose(following.iterations[0].mean[:, :3], [plan.actions[1, :3]] * 2, atol=2e-4)
    cold = Planner(mini_model, replace(CONFIG, cem=frozen)).plan(OBSERVATION, GOAL, warm_start=plan)
    np.testing.assert_allclose(cold.iterations[0].mean[:, :3], 0, atol=2e-4)
    with pytest.raises(InputError, match="expected a plan of 3 actions, received 2"):
        Planner(mini_model, replace(CONFIG, horizon=3, warm_start=True)).plan(
            OBSERVATION, GOAL, warm_start=plan
        )


def test_the_search_stays_in_the_workspace_of_the_model(mini_model):
    search = SearchConfig(xyz=0.075, stay_in_workspace=True)
    planner = Planner(mini_model, replace(CONFIG, search=search))
    corner = Observation(OBSERVATION.frame, RobotState([0.69, 0.29, 0.11, *STATE[3:]]))
    plan = planner.plan(corner, GOAL)
    low, high = mini_model.description.workspace
    positions = plan.predicted_states[:, :3]
    assert (positions >= np.array(low) - 1e-6).all()
    assert (positions <= np.array(high) + 1e-6).all()

    class Homeless:
        device, rollout, encode = mini_model.device, mini_model.rollout, mini_model.encode
        description = replace(mini_model.description, workspace=None)

    with pytest.raises(InputError, match="description names no workspace"):
        Planner(Homeless(), replace(CONFIG, search=search)).plan(corner, GOAL)


def test_a_model_that_turns_out_nan_is_an_error(mini_model):
    class Broken:
        device, description, encode = mini_model.device, mini_model.description, mini_model.encode

        def rollout(self, z0, s0, actions):
            latents, states = mini_model.rollout(z0, s0, actions)
            return latents * torch.nan, states

    with pytest.raises(PlanningError, match="none of 36 candidate"):
        Planner(Broken(), CONFIG).plan(OBSERVATION, GOAL)


def test_a_goal_latent_of_another_model_is_refused(planner):
    with pytest.raises(InputError, match=r"shape \(16, 128\) .* received \(8, 128\)"):
        planner.plan(OBSERVATION, torch.zeros(8, 128))


def test_deadline_and_cancel_reach_the_optimiser(mini_model):
    planner = Planner(mini_model, replace(CONFIG, cem=replace(CONFIG.cem, iterations=1000)))
    begin = time.monotonic()
    plan = planner.plan(OBSERVATION, GOAL, deadline_s=0.2)
    assert plan.stop_reason == "deadline"
    assert 1 <= len(plan.iterations) < 1000
    assert time.monotonic() - begin < 5.0
    with pytest.raises(PlanCancelled):
        planner.plan(OBSERVATION, GOAL, cancel=lambda: True)


def test_landscape_is_the_energy_on_a_grid(planner):
    score = planner.energy(OBSERVATION, GOAL)
    landscape = energy_landscape(score, axes=("dx", "dz"), span=0.06, points=5)
    assert landscape.energies.shape == (5, 5)
    action = torch.zeros(1, 1, 7)
    action[0, 0, [0, 2]] = torch.tensor([0.03, -0.06])
    column, row = 3, 0
    assert landscape.ticks[column] == pytest.approx(0.03)
    assert landscape.energies[row, column] == pytest.approx(score(action).item(), rel=1e-5)
    x, z = landscape.lowest
    assert (
        landscape.energies[list(landscape.ticks).index(z), list(landscape.ticks).index(x)]
        == landscape.energies.min()
    )


def test_landscape_through_a_plan_and_refusals():
    def score(actions):
        return (actions[:, 0, 0] - 0.05).abs() + (actions[:, 0, 1] + 0.05).abs() + actions[:, 1, 2].abs()

    base = torch.zeros(2, 7)
    base[1, 2] = 0.2
    landscape = energy_landscape(score, span=0.05, points=3, base=base)
    assert landscape.lowest == pytest.approx((0.05, -0.05))
    assert landscape.energies.min() == pytest.approx(0.2)
    with pytest.raises(InputError, match="expected two different of dx, dy"):
        energy_landscape(score, axes=("dx", "dx"))
    with pytest.raises(ConfigError, match="points: received 1, allowed 2"):
        energy_landscape(score, points=1)


def test_presets_say_what_the_paper_and_its_code_say():
    paper, reference = PlannerConfig.preset("paper"), PlannerConfig.preset("reference")
    assert (paper.horizon, paper.search.xyz, paper.search.axes) == (1, 0.075, "xyz+gripper")
    assert (paper.cem.samples, paper.cem.iterations, paper.cem.elites) == (800, 10, 10)
    assert (reference.horizon, reference.search.xyz) == (2, 0.05)
    assert (reference.cem.samples, reference.cem.iterations, reference.cem.elites) == (400, 10, 10)
    for config in (paper, reference):  # nothing of ours
        cem, search = config.cem, config.search
        assert (cem.include_zero, cem.include_mean, cem.keep_elites, cem.min_std) == (False, False, 0, 0.0)
        assert (cem.converged_below, cem.answer, search.xyz_shape) == (None, "mean", "box")
        assert (cem.momentum_mean, cem.momentum_std) == (0.15, 0.15)
        assert (cem.momentum_mean_gripper, cem.momentum_std_gripper) == (0.15, 0.15)
        assert (search.gripper, search.gripper_std, search.gripper_dead_zone) == (0.75, 1.0, 0.25)
        assert not (search.stay_in_workspace or config.warm_start or config.hold_margin)


def test_fast_presets_search_where_the_paper_does_with_a_fraction_of_its_evaluations():
    def evaluations(config):
        space = ActionSpace(config.search, config.horizon)
        scored = Planner(None, config).optimiser.optimise(
            lambda actions: actions.square().sum((1, 2)), space, generator=torch.Generator().manual_seed(0)
        )
        return scored.evaluations

    paper = PlannerConfig.preset("paper")
    assert evaluations(paper) == 8000
    for name, share in (("balanced", 10), ("realtime", 20), ("cpu", 40)):
        config = PlannerConfig.preset(name)
        assert (config.search.axes, config.search.xyz) == (paper.search.axes, paper.search.xyz)
        assert (config.search.gripper, config.horizon) == (paper.search.gripper, paper.horizon)
        assert evaluations(config) <= 8000 / share


def test_presets_load_with_overrides_and_name_what_is_wrong():
    assert {"demo", "paper", "reference", "balanced", "realtime", "cpu"} == set(preset_names())
    config = PlannerConfig.preset("paper", {"horizon": 3, "cem": {"samples": 96}})
    assert (config.horizon, config.cem.samples, config.cem.iterations) == (3, 96, 10)
    with pytest.raises(ConfigError, match="preset: received 'fast', allowed demo, paper, reference"):
        PlannerConfig.preset("fast")
    with pytest.raises(ConfigError, match=r"preset demo: cem: unknown sample \(did you mean 'samples'\?\)"):
        PlannerConfig.preset("demo", {"cem": {"sample": 1}})
    with pytest.raises(ConfigError, match=r"horizon: received 0, allowed 1 \.\. 64"):
        PlannerConfig.preset("demo", {"horizon": 0})


def test_shipped_files_are_found_in_source_tree_and_installed(tmp_path, monkeypatch):
    assert presets.config_file("planner.yaml").is_file()
    installed = tmp_path / "share" / "vjepa_ac_planner" / "config"
    installed.mkdir(parents=True)
    (installed / "only-installed.yaml").write_text("{}")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert presets.config_file("only-installed.yaml") == installed / "only-installed.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml: not found; looked at .*share/vjepa_ac_planner"):
        presets.config_file("none.yaml")
