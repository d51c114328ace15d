"""What the improved cross-entropy method adds to the plain one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.icem import ICEM, ICEMConfig
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig, coloured

TARGET = torch.tensor([0.03, -0.02, 0.04, 0, 0, 0, 0.5])


def quadratic(actions):
    return ((actions.sum(1) - TARGET) ** 2).sum(-1)


def run(config, horizon=1, init_mean=None):
    seen = []

    def score(actions):
        seen.append(actions.clone())
        return quadratic(actions)

    result = ICEM(config).optimise(
        score,
        ActionSpace(SearchConfig(xyz=0.05), horizon),
        generator=torch.Generator().manual_seed(0),
        init_mean=init_mean,
    )
    return result, seen


def contains(candidates, sequence):
    return bool((candidates == sequence).all(dim=(1, 2)).any())


def test_the_population_shrinks_to_twice_the_elites():
    config = ICEMConfig(samples=100, elites=10, iterations=8, shrink=1.5)
    assert config.populations == (100, 66, 44, 29, 20, 20, 20, 20)
    result, seen = run(config)
    assert tuple(len(actions) for actions in seen) == config.populations
    assert result.evaluations == sum(config.populations)


def test_a_share_of_the_elites_and_the_mean_are_candidates_again():
    result, seen = run(ICEMConfig(samples=40, elites=8, iterations=5, keep=0.5))
    for (earlier, later), step in zip(pairwise(seen), result.iterations, strict=False):
        for elite in earlier[quadratic(earlier).argsort()[:4]]:
            assert contains(later, elite)
        mean = torch.from_numpy(step.mean).float()
        assert ((later - mean).abs() < 1e-7).all(dim=(1, 2)).any()
    best = [step.best_energy for step in result.iterations]
    assert best == sorted(best, reverse=True)


def test_standing_still_and_the_last_plan_are_candidates_first():
    warm = torch.full((1, 7), 0.02) * (TARGET != 0)
    _, seen = run(ICEMConfig(include_zero=True), init_mean=warm)
    assert contains(seen[0], warm) and contains(seen[0], torch.zeros(1, 7))
    _, seen = run(ICEMConfig())
    assert not contains(seen[0], torch.zeros(1, 7))


def test_it_stops_early_when_the_elites_agree():
    result, _ = run(ICEMConfig(iterations=100, converged_below=0.02))
    assert result.stop_reason == "converged"
    assert len(result.iterations) < 30


def test_coloured_noise_has_unit_variance_and_the_asked_spectrum():
    white = torch.randn(20000, 8, 2, generator=torch.Generator().manual_seed(0))
    for exponent in (0.5, 2.0, 4.0):
        noise = coloured(white, exponent)
        torch.testing.assert_close(noise.var(dim=0), torch.ones(8, 2), atol=0.05, rtol=0)
        power = torch.fft.rfft(noise, dim=1).abs().square().mean(dim=(0, 2))
        # 0 and 1 alike, then falling as f^-exponent
        assert power[1] / power[0] == pytest.approx(1.0, abs=0.06)
        assert power[2] / power[1] == pytest.approx(2.0**-exponent, rel=0.06)
        assert power[4] / power[1] == pytest.approx(4.0**-exponent, rel=0.06)
    assert torch.equal(coloured(white, 0.0), white)
    assert coloured(white[:, :1], 3.0) is not None and torch.equal(
        coloured(white[:, :1], 3.0), white[:, :1]
    )


def test_neighbouring_steps_go_the_same_way_the_more_the_higher_the_exponent():
    white = torch.randn(5000, 6, 1, generator=torch.Generator().manual_seed(0))
    alike = [
        (noise[:, 1:] * noise[:, :-1]).mean().item()
        for noise in (coloured(white, exponent) for exponent in (0.0, 1.0, 2.0, 8.0))
    ]
    assert alike == sorted(alike)
    assert abs(alike[0]) < 0.05 and alike[-1] > 0.6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"elites": 63}, r"elites: received 63 of 64 samples, allowed 2 \.\. 62"),
        ({"shrink": 0.9}, "shrink: received 0.9, allowed 1.0"),
        ({"keep": 1.1}, "keep: received 1.1"),
        ({"momentum": 1.0}, "momentum: received 1.0"),
        ({"iterations": 0}, "iterations: received 0"),
    ],
)
def test_what_the_configuration_refuses(options, text):
    with pytest.raises(ConfigError, match=text):
        ICEMConfig(**options)
