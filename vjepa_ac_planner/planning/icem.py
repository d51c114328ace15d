"""Improved cross-entropy method: the same answer from far fewer candidates.

After Pinneri et al., "Sample-efficient Cross-Entropy Method for Real-time Planning" (arXiv 2008.06389):
noise that varies slowly along the horizon, elites that stay candidates, a population that shrinks while
the search narrows, the mean as a last candidate, and the best candidate seen as the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised
from vjepa_ac_planner.planning.proposals import ActionSpace, coloured
from vjepa_ac_planner.planning.search import Search


@dataclass(frozen=True)
class ICEMConfig:
    """Population, noise and refit of the improved cross-entropy method."""

    samples: int = ranged(64, low=2, high=1_000_000)
    """Candidates of the first iteration, included ones counted."""
    elites: int = ranged(8, low=2, high=1_000_000)
    """Candidates with the least energy to which the proposal is refitted."""
    iterations: int = ranged(6, low=1, high=1000)
    """Most iterations of sampling and refitting."""
    shrink: float = ranged(1.25, low=1.0, high=10.0)
    """Each iteration has fewer candidates than the one before by this factor, but twice the elites."""
    keep: float = ranged(0.3, low=0.0, high=1.0)
    """Share of the elites that are candidates of the next iteration again."""
    noise_exponent: float = ranged(2.0, low=0.0, high=8.0)
    """Power spectrum of the noise along the horizon: 0 is white, 2 a random walk; nothing at horizon 1."""
    momentum: float = ranged(0.1, low=0.0, high=0.999)
    """Share of the old mean and standard deviation that stays in the new ones."""
    min_std: float = ranged(0.0, low=0.0, high=1.0)
    """Floor of the standard deviation, as a share of the initial one."""
    include_zero: bool = False
    """Whether standing still is a candidate of the first iteration."""
    converged_below: float | None = ranged(None, low=0.0, high=1.0)
    """Stop when the elites' standard deviation is below this share of the initial one on every axis."""
    answer: Literal["mean", "best"] = "best"
    """Whether the answer is the last mean or the best candidate seen."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.elites + 2 > self.samples:
            raise ConfigError(
                f"elites: received {self.elites} of {self.samples} samples, allowed 2 .. {self.samples - 2}"
            )

    @property
    def populations(self) -> tuple[int, ...]:
        """Number of candidates of each iteration."""
        least = min(2 * self.elites, self.samples)
        return tuple(max(least, int(self.samples / self.shrink**i)) for i in range(self.iterations))


class ICEM:
    """An :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`."""

    def __init__(self, config: ICEMConfig, clock: Clock = time.monotonic) -> None:
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
        included = self._first(mean, init_mean is not None)  # [E, H, 7]

        for count, epsilon in zip(config.populations, noise, strict=True):
            sampled = mean + std * epsilon[: count - len(included)]
            candidates = search.rank(torch.cat((included, sampled)))
            elites = candidates.best(config.elites)
            elite_mean, elite_std = elites.moments(mean, std)
            mean = torch.lerp(elite_mean, mean, config.momentum)
            std = torch.lerp(elite_std, std, config.momentum)
            std = torch.maximum(std, config.min_std * space.std)
            if search.over(elites, mean, std, spread=elite_std):
                break
            # The mean comes back as a candidate: it averages the elites' noise out.
            kept = elites.actions[: round(config.keep * config.elites)]
            included = torch.cat((kept, mean[None]))

        return search.answer(mean if config.answer == "mean" else search.best, elites.actions)

    def _first(self, mean: Tensor, warm: bool) -> Tensor:
        """[E, H, 7] scored beside the first samples: where the last plan left off, standing still."""
        parts = [mean[None][: int(warm)]]
        if self.config.include_zero:
            parts.append(torch.zeros_like(mean)[None])
        return torch.cat(parts)
