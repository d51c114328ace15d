"""Model predictive path integral: the mean of all candidates, weighted by how good they are.

After Williams et al. (arXiv 1707.02342), repeated within one plan, with the deviation refitted to the
weighted candidates as in TD-MPC (arXiv 2203.04955): no elites are cut off, so few candidates suffice
for a refit, and the weights sharpen by themselves as the energies come closer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised
from vjepa_ac_planner.planning.proposals import ActionSpace, coloured
from vjepa_ac_planner.planning.search import Population, Search


@dataclass(frozen=True)
class MPPIConfig:
    """Population, weights and refit of MPPI."""

    samples: int = ranged(64, low=3, high=1_000_000)
    """Candidates per iteration, the mean counted."""
    iterations: int = ranged(6, low=1, high=1000)
    """Most iterations of sampling and refitting."""
    temperature: float = ranged(0.2, low=1e-3, high=100.0)
    """Energy above the best at which a candidate's weight falls to 1/e, as a share of what the mean energy
    of the candidates is above the best: free of the energy's scale."""
    noise_exponent: float = ranged(2.0, low=0.0, high=8.0)
    """Power spectrum of the noise along the horizon: 0 is white, 2 a random walk; nothing at horizon 1."""
    momentum: float = ranged(0.0, low=0.0, high=0.999)
    """Share of the old mean and standard deviation that stays in the new ones."""
    min_std: float = ranged(0.0, low=0.0, high=1.0)
    """Floor of the standard deviation, as a share of the initial one."""
    converged_below: float | None = ranged(None, low=0.0, high=1.0)
    """Stop when the weighted standard deviation is below this share of the initial one on every axis."""
    answer: Literal["mean", "best"] = "best"
    """Whether the answer is the last mean or the best candidate seen."""

    def __post_init__(self) -> None:
        check_ranges(self)


class MPPI:
    """An :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`."""

    def __init__(self, config: MPPIConfig, clock: Clock = time.monotonic) -> None:
        self.config = config
        self._clock = clock

    @torch.no_grad()
    def optimise(
        self,
        score: Scorer,
        space: ActionSpace,
        *,
        generator: torch.Generator,
        noise: Tensor | None = None,
        init_mean: Tensor | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Optimised:
        """See :meth:`vjepa_ac_planner.planning.optimiser.Optimiser.optimise`."""
        config = self.config
        search = Search(score, space, deadline, cancel, config.converged_below, self._clock)
        noise = space.noise(config.iterations, config.samples, generator, noise)  # [I, K, H, 7]
        noise = coloured(noise, config.noise_exponent)
        mean, std = space.centre(init_mean), space.std  # [H, 7]

        for epsilon in noise:
            sampled = mean + std * epsilon[: config.samples - 1]
            candidates = search.rank(torch.cat((mean[None], sampled)))
            new_mean, new_std = self._refit(candidates, mean, std)
            mean = torch.lerp(new_mean, mean, config.momentum)
            std = torch.lerp(new_std, std, config.momentum)
            std = torch.maximum(std, config.min_std * space.std)
            if search.over(candidates, mean, std, spread=new_std):
                break

        return search.answer(mean if config.answer == "mean" else search.best, candidates.actions)

    def _refit(self, candidates: Population, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation [H, 7]; the given ones when no energy is finite."""
        best, average = candidates.energies[0], candidates.mean_energy()
        scale = (self.config.temperature * (average - best)).clamp(min=torch.finfo(best.dtype).tiny)
        excess = torch.where(candidates.finite, (candidates.energies - best) / scale, torch.inf)
        weight = torch.softmax(-excess, dim=0).nan_to_num(0.0)[:, None, None]  # [K, 1, 1]
        centre = (weight * candidates.actions).sum(0)
        variance = (weight * (candidates.actions - centre) ** 2).sum(0)
        some = candidates.finite.any()
        return torch.where(some, centre, mean), torch.where(some, variance.sqrt(), std)
