"""The cross-entropy method: the golden run, and the laws of sampling, refitting and stopping."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from threading import Event

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError, InputError, PlanCancelled, PlanningError
from vjepa_ac_planner.planning.cem import CEM, CEMConfig
from vjepa_ac_planner.planning.energy import LatentEnergy
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

TARGET = torch.tensor([0.03, -0.02, 0.04, 0, 0, 0, 0.5])
SMALL = CEMConfig(samples=64, elites=8, iterations=6)


def quadratic(actions):
    return ((actions.sum(1) - TARGET) ** 2).sum(-1)


def optimise(config=SMALL, score=quadratic, seed=0, space=None, clock=None, **options):
    cem = CEM(config) if clock is None else CEM(config, clock)
    space = space or ActionSpace(SearchConfig(xyz=0.05), horizon=1)
    return cem.optimise(score, space, generator=torch.Generator().manual_seed(seed), **options)


class Ticks:
    """A clock on which every look takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_golden_action_from_the_recorded_noise(golden, mini_model):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    result = CEM(CEMConfig(samples=24, elites=6, iterations=4)).optimise(
        LatentEnergy(mini_model, z0, s0, zg),
        ActionSpace(SearchConfig(xyz=0.05), horizon=2),
        generator=torch.Generator(),
        noise=torch.from_numpy(golden["cem_noise"]).permute(0, 2, 1, 3),  # [I, H, K, A] -> [I, K, H, A]
    )
    np.testing.assert_allclose(result.actions.numpy(), golden["cem_action"], atol=1e-4)
    assert result.evaluations == 96
    assert result.stop_reason == "iterations"


@pytest.mark.parametrize("chunk", [1, 7, 23])
def test_the_chunk_does_not_change_the_answer(golden, mini_model, chunk):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    config = CEMConfig(samples=24, elites=6, iterations=4)
    space = ActionSpace(SearchConfig(xyz=0.05), horizon=2)
    whole = optimise(config, LatentEnergy(mini_model, z0, s0, zg), space=space)
    parts = optimise(config, LatentEnergy(mini_model, z0, s0, zg, chunk=chunk), space=space)
    assert torch.equal(whole.actions, parts.actions)


def test_one_iteration_is_the_formula_of_the_reference():
    noise = torch.randn(1, 16, 1, 4, generator=torch.Generator().manual_seed(5))
    config = CEMConfig(
        samples=16, elites=4, iterations=1, momentum_mean=0.3, momentum_std=0.6, momentum_mean_gripper=0.2
    )
    result = optimise(config, noise=noise)

    scale = torch.tensor([0.05, 0.05, 0.05, 1.0])
    samples = (noise[0, :, 0] * scale).numpy()
    samples[:, :3] = samples[:, :3].clip(-0.05, 0.05)
    samples[:, 3] = samples[:, 3].clip(-0.75, 0.75)
    energies = ((samples - TARGET[[0, 1, 2, 6]].numpy()) ** 2).sum(1)
    elites = samples[np.argsort(energies)[:4]]
    mean = elites.mean(0) * [0.7, 0.7, 0.7, 0.8]
    std = elites.std(0, ddof=1) * [0.4, 0.4, 0.4, 0.85] + scale.numpy() * [0.6, 0.6, 0.6, 0.15]
    trace = result.iterations[0]
    np.testing.assert_allclose(trace.mean[0, [0, 1, 2, 6]], mean, atol=1e-6)
    np.testing.assert_allclose(trace.std[0, [0, 1, 2, 6]], std, atol=1e-6)
    assert trace.best_energy == pytest.approx(energies.min(), rel=1e-5)
    assert trace.elite_mean_energy == pytest.approx(np.sort(energies)[:4].mean(), rel=1e-5)
    assert (trace.mean[0, 3:6] == 0).all()


def test_it_finds_the_minimum_of_a_quadratic():
    result = optimise(CEMConfig(samples=200, elites=10, iterations=10))
    torch.testing.assert_close(result.actions[0], TARGET, atol=2e-3, rtol=0)
    energies = [step.best_energy for step in result.iterations]
    assert energies[-1] < energies[0] / 100


def test_same_seed_same_answer_another_seed_another():
    assert torch.equal(optimise(seed=3).actions, optimise(seed=3).actions)
    assert not torch.equal(optimise(seed=3).actions, optimise(seed=4).actions)


def test_the_trace_costs_nothing_the_answer_depends_on_and_counts_evaluations():
    result = optimise()
    assert len(result.iterations) == 6
    assert result.evaluations == 6 * 64
    assert all(step.finite == 64 for step in result.iterations)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_energies_that_are_not_finite_are_the_worst(bad):
    def score(actions):
        energies = quadratic(actions)
        return torch.where(actions[:, 0, 0] > 0, bad, energies)  # where the minimum is

    result = optimise(score=score)
    assert result.actions[0, 0] <= 1e-3
    assert all(np.isfinite(step.best_energy) for step in result.iterations)
    assert 0 < result.iterations[0].finite < 64


def test_a_single_finite_candidate_leads_and_none_leaves_the_proposal_alone():
    calls = []

    def score(actions):
        energies = torch.full((len(actions),), torch.nan)
        if not calls:
            energies[5] = 1.0
        calls.append(actions)
        return energies

    result = optimise(score=score)
    assert [step.finite for step in result.iterations] == [1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(result.iterations[0].mean[0], 0.85 * calls[0][5, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(result.iterations[-1].mean, result.iterations[0].mean, atol=1e-6)


def test_no_finite_candidate_is_an_error():
    with pytest.raises(PlanningError, match="none of 384 candidate action sequences has a finite energy"):
        optimise(score=lambda actions: torch.full((len(actions),), torch.nan))


def test_ties_go_to_the_earlier_candidate():
    noise = torch.randn(1, 16, 1, 4, generator=torch.Generator().manual_seed(5)) * 0.1
    config = CEMConfig(samples=16, elites=4, iterations=1, momentum_mean=0.0, momentum_mean_gripper=0.0)
    result = optimise(config, lambda actions: torch.ones(len(actions)), noise=noise)
    expected = (noise[0, :4, 0].mean(0) * torch.tensor([0.05, 0.05, 0.05, 1.0])).numpy()
    np.testing.assert_allclose(result.iterations[0].mean[0, [0, 1, 2, 6]], expected, atol=1e-7)


def test_zero_mean_and_kept_elites_are_candidates():
    seen = []

    def score(actions):
        seen.append(actions.clone())
        return quadratic(actions)

    config = replace(SMALL, include_zero=True, include_mean=True, keep_elites=3)
    result = optimise(config, score, init_mean=torch.full((1, 7), 0.02))
    assert [len(actions) for actions in seen] == [64] * 6
    for actions in seen:
        assert (actions == 0).all(dim=(1, 2)).any()
    assert (seen[0] == torch.tensor([0.02, 0.02, 0.02, 0, 0, 0, 0.02])).all(dim=(1, 2)).any()
    for earlier, later in pairwise(seen):
        for elite in earlier[quadratic(earlier).argsort()[:3]]:
            assert (later == elite).all(dim=(1, 2)).any()
    best = [step.best_energy for step in result.iterations]
    assert best == sorted(best, reverse=True)  # kept elites: it never gets worse


def test_best_answer_is_the_best_candidate_seen():
    result = optimise(
        replace(SMALL, answer="best"), space=ActionSpace(SearchConfig(gripper_dead_zone=0), 1)
    )
    assert quadratic(result.actions[None]).item() == pytest.approx(
        min(step.best_energy for step in result.iterations), rel=1e-5
    )


def test_min_std_is_a_floor():
    result = optimise(replace(SMALL, min_std=0.3))
    assert (result.iterations[-1].std[0, :3] >= 0.3 * 0.05 - 1e-9).all()
    assert (result.iterations[-1].std[0, 3:6] == 0).all()
    assert optimise().iterations[-1].std[0, 0] < 0.3 * 0.05


def test_unsearched_axes_stay_exactly_zero():
    space = ActionSpace(SearchConfig(axes="xyz"), horizon=2)
    result = optimise(space=space, init_mean=torch.ones(2, 7))
    assert (result.actions[:, 3:] == 0).all()


def test_deadline_is_late_by_no_more_than_one_iteration_and_answers_with_what_there_is():
    result = optimise(clock=Ticks(), deadline=4.5)  # begins at 1; each iteration ends one tick later
    assert result.stop_reason == "deadline"
    assert len(result.iterations) == 3  # ends at 4; a further one would end at 5
    past = optimise(clock=Ticks(), deadline=-10.0)
    assert len(past.iterations) == 1  # at least one
    assert torch.isfinite(past.actions).all()


def test_cancel_before_and_between_iterations():
    event = Event()
    event.set()
    with pytest.raises(PlanCancelled, match="before its first iteration"):
        optimise(cancel=event)
    event.clear()
    calls = []

    def score(actions):
        calls.append(1)
        if len(calls) == 2:
            event.set()
        return quadratic(actions)

    result = optimise(score=score, cancel=event)
    assert (result.stop_reason, len(calls)) == ("cancelled", 2)
    assert len(optimise(cancel=lambda: False).iterations) == 6


def test_early_stop_when_the_elites_agree():
    result = optimise(replace(SMALL, iterations=100, converged_below=0.01))
    assert result.stop_reason == "converged"
    assert 2 < len(result.iterations) < 100
    torch.testing.assert_close(result.actions[0], TARGET, atol=5e-3, rtol=0)


def test_without_deadline_cancel_or_early_stop_the_clock_is_not_read_in_the_loop():
    clock = Ticks()
    optimise(clock=clock)
    assert clock.now == 1.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"elites": 1}, "elites: received 1, allowed 2 .. 400"),
        ({"elites": 500}, "elites: received 500, allowed 2 .. 400"),
        ({"samples": 1}, "samples: received 1"),
        ({"iterations": 0}, "iterations: received 0, allowed 1 .. 1000"),
        ({"momentum_std": 1.0}, "momentum_std: received 1.0"),
        ({"keep_elites": 11}, "keep_elites: received 11, allowed 0 .. 10"),
        ({"samples": 4, "elites": 4, "keep_elites": 4}, "all taken by included candidates"),
        ({"converged_below": 2.0}, "converged_below: received 2.0"),
    ],
)
def test_what_the_configuration_refuses(options, text):
    with pytest.raises(ConfigError, match=text):
        CEMConfig(**options)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"\(6, 64, 1\) and the searched axes, received \(6, 64, 2, 4\)"):
        optimise(noise=torch.zeros(6, 64, 2, 4))
