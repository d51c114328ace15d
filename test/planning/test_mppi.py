"""The weighted mean of MPPI."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.mppi import MPPI, MPPIConfig
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

TARGET = torch.tensor([0.03, -0.02, 0.04, 0, 0, 0, 0.5])


def quadratic(actions):
    return ((actions.sum(1) - TARGET) ** 2).sum(-1)


def run(config, score=quadratic, noise=None):
    return MPPI(config).optimise(
        score,
        ActionSpace(SearchConfig(xyz=0.05), 1),
        generator=torch.Generator().manual_seed(0),
        noise=noise,
    )


def test_one_iteration_is_the_formula():
    noise = torch.randn(1, 12, 1, 4, generator=torch.Generator().manual_seed(5))
    result = run(MPPIConfig(samples=12, iterations=1, temperature=0.3, momentum=0.2), noise=noise)

    scale, bound = np.array([0.05, 0.05, 0.05, 1.0]), np.array([0.05, 0.05, 0.05, 0.75])
    samples = np.concatenate((np.zeros((1, 4)), noise[0, :11, 0].numpy() * scale)).clip(-bound, bound)
    energies = ((samples - TARGET[[0, 1, 2, 6]].numpy()) ** 2).sum(1)
    weights = np.exp(-(energies - energies.min()) / (0.3 * (energies.mean() - energies.min())))
    weights /= weights.sum()
    mean = weights @ samples
    std = np.sqrt(weights @ (samples - mean) ** 2)
    trace = result.iterations[0]
    np.testing.assert_allclose(trace.mean[0, [0, 1, 2, 6]], 0.8 * mean, atol=1e-6)
    np.testing.assert_allclose(trace.std[0, [0, 1, 2, 6]], 0.8 * std + 0.2 * scale, atol=1e-6)


def test_the_scale_of_the_energy_does_not_matter():
    answers = [run(MPPIConfig(), lambda a, s=scale: 7.0 + s * quadratic(a)) for scale in (1.0, 64.0)]
    torch.testing.assert_close(answers[0].actions, answers[1].actions, atol=2e-3, rtol=0)


def test_equal_energies_weigh_alike():
    noise = torch.randn(1, 12, 1, 4, generator=torch.Generator().manual_seed(5)) * 0.1
    result = run(MPPIConfig(samples=12, iterations=1), lambda a: torch.full((len(a),), 2.0), noise)
    samples = noise[0, :11, 0] * torch.tensor([0.05, 0.05, 0.05, 1.0])
    np.testing.assert_allclose(result.iterations[0].mean[0, [0, 1, 2, 6]], samples.sum(0) / 12, atol=1e-6)


def test_without_a_finite_energy_the_proposal_stays():
    calls = []

    def score(actions):
        calls.append(1)
        return quadratic(actions) if len(calls) == 1 else torch.full((len(actions),), torch.nan)

    result = run(MPPIConfig(iterations=3), score)
    np.testing.assert_allclose(result.iterations[2].mean, result.iterations[0].mean, atol=1e-7)
    np.testing.assert_allclose(result.iterations[2].std, result.iterations[0].std, atol=1e-7)
    assert [step.finite for step in result.iterations] == [64, 0, 0]


def test_what_the_configuration_refuses():
    with pytest.raises(ConfigError, match=r"temperature: received 0\.0"):
        MPPIConfig(temperature=0.0)
    with pytest.raises(ConfigError, match="samples: received 2"):
        MPPIConfig(samples=2)
