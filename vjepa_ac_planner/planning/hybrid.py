"""Cross-entropy method to find the valley, gradient descent to reach its floor."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vjepa_ac_planner.errors import ConfigError, PlanCancelled
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.gradient import Gradient, GradientConfig
from vjepa_ac_planner.planning.icem import ICEM, ICEMConfig
from vjepa_ac_planner.planning.optimiser import Cancel, Clock, Optimised
from vjepa_ac_planner.planning.proposals import ActionSpace


@dataclass(frozen=True)
class HybridConfig:
    """The two halves of the search."""

    search: ICEMConfig = field(default_factory=lambda: ICEMConfig(samples=48, elites=6, iterations=2))
    """Finds where to begin."""
    descent: GradientConfig = field(default_factory=lambda: GradientConfig(descents=2, rate=0.1))
    """Follows the best of them downhill; ``starts`` is not used."""

    def __post_init__(self) -> None:
        if round(self.search.keep * self.search.elites) < 1:
            raise ConfigError(
                f"keep: received {self.search.keep} of {self.search.elites} elites, allowed at least one: "
                "the best candidate must reach the descent"
            )


class Hybrid:
    """An :class:`~vjepa_ac_planner.planning.optimiser.Optimiser`."""

    def __init__(self, config: HybridConfig, clock: Clock = time.monotonic) -> None:
        self.config = config
        self._search = ICEM(config.search, clock)
        self._descent = Gradient(config.descent, clock)

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
        """See :meth:`vjepa_ac_planner.planning.optimiser.Optimiser.optimise`; noise is the first half's."""
        found = self._search.optimise(
            score,
            space,
            generator=generator,
            noise=noise,
            init_mean=init_mean,
            deadline=deadline,
            cancel=cancel,
        )
        if found.stop_reason in ("deadline", "cancelled"):
            return found
        try:
            refined = self._descent.refine(score, space, found.elites, deadline=deadline, cancel=cancel)
        except PlanCancelled:
            return replace(found, stop_reason="cancelled")
        return replace(
            refined,
            iterations=found.iterations + refined.iterations,
            evaluations=found.evaluations + refined.evaluations,
        )
