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
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised, Pace, StopReason, Trace
from vjepa_ac_planner.planning.proposals import ActionSpace


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
        pace = Pace(deadline, cancel, config.converged_below, self._clock)
        keep_mean, keep_std = self._momenta(space)  # [7], [7]
        noise = self._noise(space, generator, noise)  # [I, K, H, 7]
        mean = space.mean if init_mean is None else init_mean.to(space.mean)  # [H, 7]
        std = space.std
        elites, best, best_energy = mean[None][:0], mean, torch.full((), torch.inf, device=space.device)
        trace, evaluations = Trace(), 0
        stop: StopReason | None = None

        for epsilon in noise:
            # sample
            included = self._included(mean, elites)  # [E, H, 7]
            sampled = mean + std * epsilon[: config.samples - len(included)]
            actions = space.clip(torch.cat((included, sampled)))  # [K, H, 7]
            # score: what is not finite is worst
            energy = score(actions).float()  # [K]
            energy = torch.where(energy.isfinite(), energy, torch.inf)
            evaluations += len(actions)
            # elite: a stable sort, so that ties go to the earlier candidate on every backend
            elite_energy, order = energy.sort(stable=True)
            elite_energy, elites = elite_energy[: config.elites], actions[order[: config.elites]]
            better = elite_energy[0] < best_energy
            best = torch.where(better, elites[0], best)
            best_energy = torch.where(better, elite_energy[0], best_energy)
            # refit
            finite = elite_energy.isfinite()
            elite_mean, elite_std = _moments(elites, finite, mean, std)
            mean = torch.lerp(elite_mean, mean, keep_mean)
            std = torch.lerp(elite_std, std, keep_std)
            std = torch.maximum(std, config.min_std * space.std)

            trace.add(elite_energy[0], _mean_of(elite_energy, finite), energy.isfinite().sum(), mean, std)
            # An axis that is not searched gives 0 / 0; choosing the others would wait for the device.
            stop = pace.check((elite_std / space.std).nan_to_num(0.0).max())
            if stop is not None:
                break

        answer = mean if config.answer == "mean" else best
        return Optimised(
            actions=space.answer(answer),
            iterations=trace.collect(evaluations),
            evaluations=evaluations,
            stop_reason=stop or "iterations",
        )

    def _noise(self, space: ActionSpace, generator: torch.Generator, noise: Tensor | None) -> Tensor:
        config = self.config
        if noise is None:
            return space.draw(config.iterations, config.samples, generator)
        wanted = (config.iterations, config.samples, space.horizon)
        if noise.ndim != 4 or tuple(noise.shape[:3]) != wanted:
            raise InputError(
                f"noise: expected [iterations, samples, horizon, axes] = {wanted} and the searched axes, "
                f"received {tuple(noise.shape)}"
            )
        return space.spread(noise)

    def _included(self, mean: Tensor, elites: Tensor) -> Tensor:
        """[E, H, 7] candidates that are not sampled; by default none."""
        config = self.config
        parts = [elites[: config.keep_elites]]
        if config.include_mean:
            parts.append(mean[None])
        if config.include_zero:
            parts.append(torch.zeros_like(mean)[None])
        return torch.cat(parts)

    def _momenta(self, space: ActionSpace) -> tuple[Tensor, Tensor]:
        """[7] shares of the old mean and of the old standard deviation that stay."""
        config = self.config
        mean = torch.tensor([config.momentum_mean] * 6 + [config.momentum_mean_gripper])
        std = torch.tensor([config.momentum_std] * 6 + [config.momentum_std_gripper])
        return mean.to(space.device), std.to(space.device)


def _moments(elites: Tensor, finite: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation [H, 7] of the elites [k, H, 7] with a finite energy [k].

    With fewer than k finite candidates only those count; with none the proposal stays as it was. It is
    written with weights because choosing rows would have to wait for the device.
    """
    weight = finite.to(elites.dtype)[:, None, None]
    count = weight.sum()
    elite_mean = (weight * elites).sum(0) / count.clamp(min=1)
    variance = (weight * (elites - elite_mean) ** 2).sum(0) / (count - 1).clamp(min=1)
    return torch.where(count > 0, elite_mean, mean), torch.where(count > 0, variance.sqrt(), std)


def _mean_of(energy: Tensor, finite: Tensor) -> Tensor:
    """Mean of the finite energies [k]; infinite when there are none."""
    total = torch.where(finite, energy, 0.0).sum()
    return torch.where(finite.any(), total / finite.sum(), torch.inf)
