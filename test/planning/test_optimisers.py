"""Laws that every optimiser keeps, whatever it does inside."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.errors import InputError, PlanCancelled, PlanningError
from vjepa_ac_planner.planning.cem import CEM, CEMConfig
from vjepa_ac_planner.planning.energy import LatentEnergy
from vjepa_ac_planner.planning.gradient import Gradient, GradientConfig
from vjepa_ac_planner.planning.hybrid import Hybrid, HybridConfig
from vjepa_ac_planner.planning.icem import ICEM, ICEMConfig
from vjepa_ac_planner.planning.mppi import MPPI, MPPIConfig
from vjepa_ac_planner.planning.planner import OPTIMISERS
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

TARGET = torch.tensor([0.03, -0.02, 0.04, 0, 0, 0, 0.5])
SCALE = torch.tensor([0.05, 0.05, 0.05, 1, 1, 1, 0.75])
SMALL = {
    "cem": (CEM, CEMConfig(samples=40, elites=6, iterations=8)),
    "icem": (ICEM, ICEMConfig(samples=64, elites=6, iterations=8)),
    "mppi": (MPPI, MPPIConfig(samples=40, iterations=8)),
    "gradient": (Gradient, GradientConfig(starts=40, descents=4, iterations=20, decay=0.85)),
    "hybrid": (
        Hybrid,
        HybridConfig(
            ICEMConfig(samples=48, elites=6, iterations=3),
            GradientConfig(descents=2, iterations=20, rate=0.1),
        ),
    ),
}
NAMES = sorted(SMALL)
each = pytest.mark.parametrize("name", NAMES)


class Ticks:
    """A clock on which time passes only while something is scored."""

    def __init__(self, seconds=1.0):
        self.now, self.seconds, self.calls = 100.0, seconds, 0

    def __call__(self):
        return self.now

    def slow(self, score):
        def scored(actions):
            self.calls += 1
            self.now += self.seconds
            return score(actions)

        return scored


def quadratic(actions):
    """Least at TARGET, at a horizon of 1."""
    return (((actions.sum(1) - TARGET) / SCALE) ** 2).sum(-1)


def bumpy(actions):
    """The same with some twenty side valleys, in xyz."""
    x = (actions.sum(1) - TARGET)[..., :3] / 0.05
    return quadratic(actions) + 0.3 * (1 - torch.cos(6 * x)).sum(-1)


def search(horizon=1, **options):
    return ActionSpace(SearchConfig(**{"xyz": 0.05, "gripper_dead_zone": 0.0} | options), horizon)


def optimise(name, score=quadratic, space=None, seed=0, clock=None, **options):
    kind, config = SMALL[name]
    optimiser = kind(config) if clock is None else kind(config, clock)
    generator = torch.Generator().manual_seed(seed)
    return optimiser.optimise(score, space or search(), generator=generator, **options)


def random_search(score, evaluations, space, seed):
    noise = space.draw(1, evaluations, torch.Generator().manual_seed(seed))[0]
    return score(space.clip(space.std * noise)).min().item()


def test_every_optimiser_of_the_configuration_is_tested_here():
    assert set(SMALL) == set(OPTIMISERS)
    for name, (kind, _) in SMALL.items():
        assert isinstance(OPTIMISERS[name](PlannerConfig(optimiser=name)), kind)


@each
def test_it_finds_the_minimum_of_a_quadratic(name):
    result = optimise(name)
    torch.testing.assert_close(result.actions[0] / SCALE, TARGET / SCALE, atol=0.05, rtol=0)
    assert quadratic(result.actions[None]).item() < 5e-3
    assert (result.actions[0, 3:6] == 0).all()


@each
def test_it_finds_a_minimum_that_lies_in_a_corner_of_the_bounds(name):
    def score(actions):
        return (((actions.sum(1) - 3 * TARGET.sign() * SCALE) / SCALE) ** 2).sum(-1)

    result = optimise(name, score)
    corner = torch.tensor([0.05, -0.05, 0.05, 0, 0, 0, 0.75])
    torch.testing.assert_close(result.actions[0] / SCALE, corner / SCALE, atol=0.02, rtol=0)


@each
def test_it_beats_random_search_with_as_many_evaluations(name):
    wins = 0
    for seed in range(10):
        result = optimise(name, bumpy, seed=seed)
        random = random_search(bumpy, result.evaluations, search(), seed + 100)
        wins += bumpy(result.actions[None]).item() < random
    assert wins >= 8


@each
def test_it_plans_several_steps(name):
    space = search(horizon=3)
    weights = torch.tensor([1.0, 0.5, 0.25])[:, None]

    def score(actions):
        return (((actions - TARGET * weights) / SCALE) ** 2).sum((1, 2))

    result = optimise(name, score, space)
    assert result.actions.shape == (3, 7)
    assert score(result.actions[None]).item() < 0.15 * score(torch.zeros(1, 3, 7)).item()


@each
def test_same_seed_same_answer_another_seed_another(name):
    first, again, other = (optimise(name, bumpy, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


@each
def test_given_noise_takes_the_place_of_drawn_noise(name):
    config = SMALL[name][1]
    config = config.search if name == "hybrid" else config
    shape = (1, config.starts - 1) if name == "gradient" else (config.iterations, config.samples)
    noise = torch.randn(*shape, 1, 4, generator=torch.Generator().manual_seed(5))
    results = [optimise(name, bumpy, seed=seed, noise=noise) for seed in (0, 1)]
    assert torch.equal(results[0].actions, results[1].actions)
    drawn = optimise(name, bumpy, seed=5)
    assert torch.equal(results[0].actions, drawn.actions)  # what seed 5 draws is this noise
    with pytest.raises(InputError, match="noise: expected"):
        optimise(name, noise=noise[:, 1:])


@each
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_energies_that_are_not_finite_are_the_worst(name, bad):
    def score(actions):
        return torch.where(actions[:, 0, 0] > 0.031, bad, quadratic(actions))  # just behind the minimum

    result = optimise(name, score)
    assert result.actions[0, 0] <= 0.031
    assert quadratic(result.actions[None]).item() < 0.05
    assert result.iterations[0].finite > 0
    assert all(np.isfinite(step.best_energy) for step in result.iterations[:1])


@each
def test_no_finite_candidate_is_an_error(name):
    with pytest.raises(PlanningError, match="candidate action sequences has a finite energy"):
        optimise(name, lambda actions: actions.sum((1, 2)) * torch.nan)


@each
def test_evaluations_are_counted_as_they_are_made(name):
    seen, slopes = [], []

    def score(actions):
        (slopes if actions.requires_grad else seen).append(len(actions))
        return quadratic(actions)

    result = optimise(name, score)
    assert result.evaluations == sum(seen) + 3 * sum(slopes)
    assert bool(slopes) == (name in ("gradient", "hybrid"))
    assert len(result.iterations) == len(seen) + len(slopes)
    assert result.stop_reason == "iterations"


@each
def test_the_answer_is_no_worse_than_the_best_candidate_seen(name):
    if name == "cem":
        pytest.skip("the reference answers with its mean")
    best = []

    def score(actions):
        energies = bumpy(actions)
        best.append(energies.min().item())
        return energies

    result = optimise(name, score)
    assert bumpy(result.actions[None]).item() == pytest.approx(min(best), rel=1e-5)
    assert min(step.best_energy for step in result.iterations) == pytest.approx(min(best), rel=1e-5)


@each
def test_a_warm_start_is_where_the_search_begins(name):
    warm = torch.tensor([[0.031, -0.021, 0.039, 0, 0, 0, 0.49]])
    firsts = []

    def score(actions):
        firsts.append(actions.detach().clone())
        return quadratic(actions)

    result = optimise(name, score, init_mean=warm)
    distance = ((firsts[0].mean(0) - warm) / SCALE)[0, [0, 1, 2, 6]].norm()
    cold = (TARGET / SCALE)[[0, 1, 2, 6]].norm()
    assert distance < 0.5 * cold  # samples lie around it (and are cut at the bounds)
    if name != "cem":
        assert (firsts[0] == warm).all(dim=(1, 2)).any()  # and it is a candidate itself
        assert quadratic(result.actions[None]) <= quadratic(warm[None])


@each
@pytest.mark.parametrize("allowed", [0.5, 1.0, 2.5, 4.0, 7.9])
def test_the_deadline_is_missed_by_no_more_than_one_iteration(name, allowed):
    ticks = Ticks()
    result = optimise(name, ticks.slow(quadratic), clock=ticks, deadline=100.0 + allowed)
    spent = ticks.now - 100.0
    assert spent <= allowed + 1.0
    assert spent > allowed - 1.0  # and it is used
    assert result.actions.isfinite().all()
    if result.stop_reason == "deadline":
        assert len(result.iterations) == ticks.calls


@each
def test_iterations_that_take_unequal_time_are_late_by_no_more_than_the_last(name):
    for seed in range(8):
        ticks = Ticks()
        durations = torch.rand(100, generator=torch.Generator().manual_seed(seed)).tolist()

        def score(actions, ticks=ticks, durations=durations):
            ticks.seconds = durations[ticks.calls]
            ticks.now += ticks.seconds
            ticks.calls += 1
            return quadratic(actions)

        optimise(name, score, clock=ticks, deadline=102.0)
        assert ticks.now <= 102.0 + ticks.seconds


@each
def test_longer_deadlines_give_no_worse_answers(name):
    energies = []
    for seconds in (1, 2, 4, 8, 16):
        ticks = Ticks()
        result = optimise(name, ticks.slow(bumpy), clock=ticks, deadline=100.0 + seconds)
        energies.append(bumpy(result.actions[None]).item())
    assert energies[-1] < energies[0]
    if name != "cem":  # whose answer is a mean
        assert energies == sorted(energies, reverse=True)


@each
def test_cancel_before_and_in_the_middle(name):
    event = Event()
    event.set()
    with pytest.raises(PlanCancelled, match="before its first iteration"):
        optimise(name, cancel=event)
    for after in (1, 2, 4, 5):
        event.clear()
        calls = []

        def score(actions, calls=calls, after=after):
            calls.append(1)
            if len(calls) == after:
                event.set()
            return quadratic(actions)

        result = optimise(name, score, cancel=event)
        assert (result.stop_reason, len(calls)) == ("cancelled", after)
        assert len(result.iterations) == after


@each
def test_without_a_deadline_or_cancel_the_host_does_not_look_at_the_clock(name):
    looks = []

    def clock():
        looks.append(1)
        return 0.0

    optimise(name, clock=clock)
    assert len(looks) <= 2  # once when each half of a search begins


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    axes=st.sampled_from(["xyz", "gripper", "xyz+gripper", "all"]),
    shape=st.sampled_from(["box", "l1", "l2"]),
    horizon=st.integers(1, 3),
    snap=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_no_candidate_and_no_answer_leaves_the_bounds(name, axes, shape, horizon, snap, seed):
    space = search(horizon, axes=axes, xyz_shape=shape, gripper_dead_zone=0.3, dead_zone_in_search=snap)
    direction = torch.randn(horizon, 7, generator=torch.Generator().manual_seed(seed))
    seen = []

    def score(actions):  # rewards leaving
        seen.append(actions.detach())
        return (actions * direction / SCALE).sum((1, 2))

    result = optimise(name, score, space, seed=seed)
    for actions in (*seen, result.actions[None]):
        torch.testing.assert_close(space.clip(actions), actions, rtol=1e-5, atol=1e-7)
        assert (actions[..., [i for i in range(7) if i not in space.axes]] == 0).all()
    small = (result.actions[:, 6].abs() < 0.3) & (result.actions[:, 6] != 0)
    assert not small.any()


@each
def test_it_lowers_the_energy_of_a_world_model(name, golden, mini_model):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    score = LatentEnergy(mini_model, z0, s0, zg)
    result = optimise(name, score, search(horizon=2, xyz=0.075))
    with torch.no_grad():
        energies = score(torch.stack((result.actions, torch.zeros_like(result.actions))))
    random = random_search(score, result.evaluations, search(horizon=2, xyz=0.075), 0)
    assert energies[0] < energies[1]
    assert energies[0] <= random


@each
def test_the_chunk_does_not_change_the_answer(name, golden, mini_model):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    answers = [
        optimise(name, LatentEnergy(mini_model, z0, s0, zg, chunk=chunk), search(horizon=2)).actions
        for chunk in (None, 7)
    ]
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-3)  # 2% of the bound: rounding
