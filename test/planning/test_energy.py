"""Energy laws: order, chunks, precision, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError, DeviceMemoryError, InputError
from vjepa_ac_planner.planning.energy import LatentEnergy, latent_energy


class Drift:
    """An analytic world: each action shifts every channel of the latent by its sum of xyz."""

    def __init__(self, fits: int = 10**9, message: str = "CUDA out of memory. Tried to allocate") -> None:
        self.fits, self.message, self.sizes = fits, message, []

    def rollout(self, z0, s0, actions):
        self.sizes.append(len(actions))
        if len(actions) > self.fits:
            raise RuntimeError(self.message)
        shift = actions[..., :3].sum(-1).cumsum(1)  # [K, H]
        states = s0.expand(len(actions), actions.shape[1] + 1, 7)
        return z0 + shift[..., None, None], states


def problem(world, horizon=2, **options):
    z0, goal = torch.zeros(4, 8), torch.full((4, 8), 0.3)
    actions = torch.randn(23, horizon, 7, generator=torch.Generator().manual_seed(1)) * 0.1
    return LatentEnergy(world, z0, torch.zeros(7), goal, **options), actions


def test_energy_is_the_mean_l1_over_tokens_and_channels():
    z, goal = torch.zeros(5, 3, 2), torch.zeros(3, 2)
    z[1, 0, 0] = -6.0
    assert latent_energy(z, goal).tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_half_precision_latents_are_averaged_in_float32():
    z = torch.full((1, 4096, 64), 1.0, dtype=torch.bfloat16)
    goal = torch.zeros(4096, 64, dtype=torch.bfloat16)
    energy = latent_energy(z, goal)
    assert energy.dtype == torch.float32
    assert energy.item() == pytest.approx(1.0, abs=1e-6)


def test_golden_energies(golden, mini_model):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    score = LatentEnergy(mini_model, z0, s0, zg)
    energies = score(torch.from_numpy(golden["roll_actions"]))
    np.testing.assert_allclose(energies.numpy(), golden["roll_energy"], rtol=1e-5)


def test_permuting_candidates_permutes_energies():
    score, actions = problem(Drift())
    order = torch.randperm(len(actions), generator=torch.Generator().manual_seed(2))
    assert torch.equal(score(actions[order]), score(actions)[order])


def test_mean_over_the_horizon_is_the_mean_of_the_energies_after_each_step():
    score, actions = problem(Drift(), energy_over="mean")
    evidence = score.evaluate(actions)
    torch.testing.assert_close(score(actions), evidence.by_step.mean(1))
    final, _ = problem(Drift())
    torch.testing.assert_close(final(actions), evidence.by_step[:, -1])


@pytest.mark.parametrize("chunk", [1, 3, 8, 22, 23, 24])
def test_the_chunk_does_not_change_energies_nor_exceed_its_size(chunk):
    world = Drift()
    score, actions = problem(world, chunk=chunk)
    whole, _ = problem(Drift())
    assert torch.equal(score(actions), whole(actions))
    assert max(world.sizes) <= chunk
    assert sum(world.sizes) == len(actions)
    assert max(world.sizes) - min(world.sizes) <= 1


@pytest.mark.parametrize("chunk", [1, 5, 16, 47])
def test_the_chunk_does_not_change_the_elites_with_the_real_predictor_on_cpu(golden, mini_model, chunk):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    actions = torch.randn(48, 2, 7, generator=torch.Generator().manual_seed(3)) * 0.05
    whole = LatentEnergy(mini_model, z0, s0, zg)(actions)
    parts = LatentEnergy(mini_model, z0, s0, zg, chunk=chunk)(actions)
    assert torch.equal(whole.argsort(stable=True)[:10], parts.argsort(stable=True)[:10])
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_out_of_memory_halves_until_it_fits_and_remembers(message):
    world = Drift(fits=5, message=message)
    score, actions = problem(world)
    whole, _ = problem(Drift())
    assert torch.equal(score(actions), whole(actions))
    assert score.chunk == 4  # 23 do not fit, nor three times 8
    world.sizes.clear()
    score(actions)
    assert max(world.sizes) <= 5


def test_not_even_one_fits():
    score, actions = problem(Drift(fits=0))
    with pytest.raises(DeviceMemoryError, match=r"cpu: out of memory .* single action sequence .*shorten"):
        score(actions)


def test_other_errors_are_not_taken_for_memory():
    score, actions = problem(Drift(fits=0, message="shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        score(actions)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"received \(4, 8\) and \(5, 8\)"):
        LatentEnergy(Drift(), torch.zeros(4, 8), torch.zeros(7), torch.zeros(5, 8))
    with pytest.raises(ConfigError, match="chunk: received 0, allowed 1 or more"):
        problem(Drift(), chunk=0)
