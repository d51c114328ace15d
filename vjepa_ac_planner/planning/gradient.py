"""Gradient descent through the world model: Adam on the actions themselves, from several starts.

The predictor is differentiable, so an energy can say which way it falls. That costs three evaluations
(``search.GRADIENT_COST``) and is worth many more where the energy is smooth; where it is not, or where
the gripper sits at its stop and its gradient is 0, only the choice of starts helps. Bounds are kept by
projection: the energy is taken at the nearest allowed point, and the step is made from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.planning.search import Population, Search


@dataclass(frozen=True)
class GradientConfig:
    """Starts and steps of the descent."""

    starts: int = ranged(16, low=1, high=100_000)
    """Sequences scored to begin with: standing still (or the last plan) and samples."""
    descents: int = ranged(4, low=1, high=100_000)
    """How many of the best of them are followed downhill."""
    iterations: int = ranged(8, low=1, high=1000)
    """Most steps; each counts three evaluations per descent, and the end is scored once more."""
    rate: float = ranged(0.3, low=1e-4, high=1.0)
    """Size of the first step, as a share of the bound of each axis."""
    decay: float = ranged(0.7, low=0.01, high=1.0)
    """Each step is this share of the one before."""
    momentum: float = ranged(0.5, low=0.0, high=0.99)
    """Share of the earlier gradients in the direction of a step."""
    converged_below: float | None = ranged(None, low=0.0, high=1.0)
    """Stop when no axis moved by more than this share of its bound."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.descents > self.starts:
            raise ConfigError(
                f"descents: received {self.descents} of {self.starts} starts, allowed 1 .. {self.starts}"
            )


class Gradient:
    """An :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`."""

    def __init__(self, config: GradientConfig, clock: Clock = time.monotonic) -> None:
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
        """See :meth:`vjepa_ac_planner.planning.optimiser.Optimiser.optimise`.

        ``noise`` is [1, starts - 1, H, A]: the samples beside the first start.

        Raises:
            PlanningError: (also) the world model has no gradient.
        """
        search = self._search(score, space, deadline, cancel)
        mean = space.centre(init_mean)  # [H, 7]
        samples = mean + space.std * space.noise(1, self.config.starts - 1, generator, noise)[0]
        starts = search.rank(torch.cat((mean[None], samples))).best(self.config.descents)
        if not self._over(search, space, starts, spread=torch.ones(())):
            self._descend(search, space, starts.actions)
        return search.answer(search.best, starts.actions)

    @torch.no_grad()
    def refine(
        self,
        score: Scorer,
        space: ActionSpace,
        starts: Tensor,
        *,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Optimised:
        """Follow sequences [E, H, 7] that are good already downhill, the first ``descents`` of them."""
        search = self._search(score, space, deadline, cancel)
        self._descend(search, space, starts[: self.config.descents])
        return search.answer(search.best, starts)

    def _search(
        self, score: Scorer, space: ActionSpace, deadline: float | None, cancel: Cancel | None
    ) -> Search:
        return Search(score, space, deadline, cancel, self.config.converged_below, self._clock)

    def _descend(self, search: Search, space: ActionSpace, actions: Tensor) -> None:
        """Adam with steps that shrink; actions are measured in bounds, so one rate serves all axes.

        From where the energy is not finite a descent goes half the way back, without its momentum.
        """
        config, scale = self.config, space.bound
        mean, square = torch.zeros_like(actions), torch.zeros_like(actions)  # [K, H, 7] of the gradient
        sound = actions
        for step in range(1, config.iterations + 1):
            slope = search.slope(actions)
            finite = slope.finite[:, None, None]
            gradients = slope.gradients * scale
            mean = torch.where(finite, torch.lerp(gradients, mean, config.momentum), 0.0)
            square = torch.lerp(gradients**2, square, _SQUARE_MOMENTUM)
            size = (square / (1 - _SQUARE_MOMENTUM**step)).sqrt() + _TINY
            direction = mean / (1 - config.momentum**step) / size
            moved = actions - config.rate * config.decay ** (step - 1) * scale * direction
            moved = torch.where(finite, moved.clamp(-scale, scale), (actions + sound) / 2)
            spread = ((moved - actions) / scale).nan_to_num(0.0).abs().max()
            actions, sound = moved, torch.where(finite, actions, sound)
            if self._over(search, space, slope.candidates, spread):
                return
        self._over(search, space, search.rank(actions), spread)

    @staticmethod
    def _over(search: Search, space: ActionSpace, candidates: Population, spread: Tensor) -> bool:
        """Close an iteration; its evidence is where the candidates are and how far apart."""
        return search.over(candidates, *candidates.moments(space.mean, space.std), spread=spread)


_SQUARE_MOMENTUM = 0.9
"""Of the squared gradient: short, for there are few steps."""
_TINY = 1e-12
"""Far below any gradient of an energy, which is around 1e-3 per bound."""
