"""Cross-entropy method: sample, score, keep the elites, refit, repeat.

With its defaults (no kept elites, no floor, no early stop) it is the reference of V-JEPA 2-AC
(arXiv 2506.09985, section 3.2), reproducible to rounding from the same noise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.planning.search import Search


@dataclass(frozen=True)
class CEMConfig:
    """Population, refit and stopping of the cross-entropy method."""

    samples: int = 400
    """Candidates per iteration, included ones counted."""
    elites: int = 10
    """Candidates with the least energy to which the proposal is refitted."""
    iterations: int = 10
    """Most iterations of sampling and refitting."""
    momentum_mean: float = 0.15
    """Share of the old mean that stays in the new one, for xyz and rotation."""
    momentum_std: float = 0.15
    """Share of the old standard deviation that stays, for xyz and rotation."""
    momentum_mean_gripper: float = 0.15
    """The same for the mean of the gripper."""
    momentum_std_gripper: float = 0.15
    """The same for the standard deviation of the gripper."""
    include_zero: bool = False
    """Whether standing still is one of the candidates of every iteration."""
    include_mean: bool = False
    """Whether the mean itself is one of the candidates of every iteration."""
    keep_elites: int = 0
    """How many of the last elites are candidates again."""
    min_std: float = 0.0
    """Floor of the standard deviation, as a share of the initial one."""
    converged_below: float | None = None
    """Stop when the elites' standard deviation is below this share of the initial one on every axis."""
    answer: Literal["mean", "best"] = "mean"
    """Whether the answer is the last mean (the reference) or the best candidate seen."""

    def __post_init__(self) -> None:
        check_range("samples", self.samples, 2, 1_000_000)
        check_range("elites", self.elites, 2, self.samples)
        check_range("iterations", self.iterations, 1, 1000)
        for name in ("momentum_mean", "momentum_std", "momentum_mean_gripper", "momentum_std_gripper"):
            check_range(name, getattr(self, name), 0.0, 0.999)
        check_range("keep_elites", self.keep_elites, 0, self.elites)
        check_range("min_std", self.min_std, 0.0, 1.0)
        if self.converged_below is not None:
            check_range("converged_below", self.converged_below, 0.0, 1.0)
        if self.keep_elites + self.include_zero + self.include_mean >= self.samples:
            raise ConfigError(f"samples: received {self.samples}, all taken by included candidates")


class CEM:
    """An :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`."""

    def __init__(self, config: CEMConfig, clock: Clock = time.monotonic) -> None:
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
        keep_mean, keep_std = self._momenta(space)  # [7], [7]
        noise = space.noise(config.iterations, config.samples, generator, noise)  # [I, K, H, 7]
        mean, std = space.centre(init_mean), space.std  # [H, 7]
        kept = mean[None][:0]  # [E, H, 7]

        for epsilon in noise:
            # sample
            included = torch.cat((kept, self._included(mean)))
            sampled = mean + std * epsilon[: config.samples - len(included)]
            # score
            candidates = search.rank(torch.cat((included, sampled)))
            # elite
            elites = candidates.best(config.elites)
            kept = elites.actions[: config.keep_elites]
            # refit
            elite_mean, elite_std = elites.moments(mean, std)
            mean = torch.lerp(elite_mean, mean, keep_mean)
            std = torch.lerp(elite_std, std, keep_std)
            std = torch.maximum(std, config.min_std * space.std)
            if search.over(elites, mean, std, spread=elite_std):
                break

        return search.answer(mean if config.answer == "mean" else search.best, elites.actions)

    def _included(self, mean: Tensor) -> Tensor:
        """[E, H, 7] candidates that are not sampled; by default none."""
        parts = [mean[None][:0]]
        if self.config.include_mean:
            parts.append(mean[None])
        if self.config.include_zero:
            parts.append(torch.zeros_like(mean)[None])
        return torch.cat(parts)

    def _momenta(self, space: ActionSpace) -> tuple[Tensor, Tensor]:
        """[7] shares of the old mean and of the old standard deviation that stay."""
        config = self.config
        mean = torch.tensor([config.momentum_mean] * 6 + [config.momentum_mean_gripper])
        std = torch.tensor([config.momentum_std] * 6 + [config.momentum_std_gripper])
        return mean.to(space.device), std.to(space.device)
