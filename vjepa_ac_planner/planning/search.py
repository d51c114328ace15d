"""What all optimisers share: candidates ranked by energy, the best one seen, the evidence, when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_ac_planner.planning.energy import Scorer, value_and_gradient
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised, Pace, StopReason, Trace
from vjepa_ac_planner.planning.proposals import ActionSpace

GRADIENT_COST = 3
"""Evaluations that an energy with its gradient counts for: a backward pass costs two forward ones."""


@dataclass(frozen=True)
class Population:
    """Candidates with their energies, best first."""

    actions: Tensor
    """[K, H, 7] in bounds."""
    energies: Tensor
    """[K] float32, ascending; infinite where the scorer's answer was not finite."""

    @property
    def finite(self) -> Tensor:
        """[K] whose energy is finite."""
        return self.energies.isfinite()

    def best(self, count: int) -> Population:
        """The ``count`` candidates with the least energy."""
        return Population(self.actions[:count], self.energies[:count])

    def mean_energy(self) -> Tensor:
        """Mean of the finite energies; infinite when there are none."""
        total = torch.where(self.finite, self.energies, 0.0).sum()
        return torch.where(self.finite.any(), total / self.finite.sum(), torch.inf)

    def moments(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation [H, 7] of the candidates with a finite energy.

        With none the given ``mean`` and ``std`` are the answer. It is written with weights because
        choosing rows would have to wait for the device.
        """
        weight = self.finite.to(self.actions.dtype)[:, None, None]
        count = weight.sum()
        centre = (weight * self.actions).sum(0) / count.clamp(min=1)
        variance = (weight * (self.actions - centre) ** 2).sum(0) / (count - 1).clamp(min=1)
        return torch.where(count > 0, centre, mean), torch.where(count > 0, variance.sqrt(), std)


class Slope(NamedTuple):
    """Where the energy falls, in the order in which the candidates were given."""

    candidates: Population
    """The same candidates, best first."""
    finite: Tensor
    """[K] whose energy and gradient are finite."""
    gradients: Tensor
    """[K, H, 7] of the energy; 0 where not finite."""


class Search:
    """One run of an optimiser: it brings candidates in, and the search keeps the books.

    Args:
        score: [K, H, 7] -> [K].
        space: bounds, horizon and device.
        deadline: see :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`.
        cancel: see there.
        converged_below: see :class:`~vjepa_ac_planner.planning.optimiser.Pace`.
        clock: tells the time [s].

    Raises:
        PlanCancelled: cancelled already.
    """

    def __init__(
        self,
        score: Scorer,
        space: ActionSpace,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        converged_below: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._score, self._space = score, space
        self._pace = Pace(deadline, cancel, converged_below, clock)
        self._trace = Trace()
        self._stop: StopReason | None = None
        self._finite = torch.zeros((), device=space.device)
        self.evaluations = 0
        """Candidates scored, one with its gradient counted as ``GRADIENT_COST``."""
        self.best = space.mean
        """[H, 7] the candidate with the least energy so far."""
        self.best_energy = torch.full((), torch.inf, device=space.device)

    def rank(self, actions: Tensor) -> Population:
        """Bring candidates [K, H, 7] into the bounds and score them; what is not finite is worst."""
        actions = self._space.clip(actions)
        self.evaluations += len(actions)
        return self._ranked(actions, self._score(actions))

    def slope(self, actions: Tensor) -> Slope:
        """Score candidates [K, H, 7] with the gradients of their energies."""
        actions = self._space.clip(actions)
        self.evaluations += GRADIENT_COST * len(actions)
        energies, gradients = value_and_gradient(self._score, actions)
        candidates = self._ranked(actions, energies)
        finite = energies.isfinite() & gradients.isfinite().all(dim=2).all(dim=1)
        gradients = torch.where(finite[:, None, None], gradients, 0.0)
        return Slope(candidates, finite, gradients)

    def over(self, elites: Population, mean: Tensor, std: Tensor, spread: Tensor) -> bool:
        """Close an iteration: keep its trace, and say whether to stop.

        Args:
            elites: the candidates that decided where to go on.
            mean: [H, 7] of the next proposal.
            std: [H, 7] of the next proposal.
            spread: [H, 7] or [] how far the search still moves, in the units of an action if [H, 7].
        """
        self._trace.add(elites.energies[0], elites.mean_energy(), self._finite, mean, std)
        if spread.ndim:
            # An axis that is not searched gives 0 / 0; choosing the others would wait for the device.
            spread = (spread / self._space.std).nan_to_num(0.0).max()
        self._stop = self._pace.check(spread)
        return self._stop is not None

    def answer(self, actions: Tensor, elites: Tensor) -> Optimised:
        """The result: the sequence [H, 7] to execute, and the last elites [E, H, 7].

        Raises:
            PlanningError: not one candidate had a finite energy.
        """
        return Optimised(
            actions=self._space.answer(actions),
            elites=elites,
            iterations=self._trace.collect(self.evaluations),
            evaluations=self.evaluations,
            stop_reason=self._stop or "iterations",
        )

    def _ranked(self, actions: Tensor, energies: Tensor) -> Population:
        energies = energies.float()
        energies = torch.where(energies.isfinite(), energies, torch.inf)
        # A stable sort, so that ties go to the earlier candidate on every backend.
        energies, order = energies.sort(stable=True)
        population = Population(actions[order], energies)
        self._finite = population.finite.sum()
        better = energies[0] < self.best_energy
        self.best = torch.where(better, population.actions[0], self.best)
        self.best_energy = torch.where(better, energies[0], self.best_energy)
        return population
