"""Whole plans: how long each preset takes from a frame to an action, and how many evaluations it spends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.timing import Budget, quantile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.types import Frame, Goal, Observation
    from vjepa_ac_planner.world_model import WorldModel

WARM_UP = 1


def time_plans(planner: Planner, budget: Budget, count: int = 20) -> dict[str, Any]:
    """Plan from a new frame each time; every plan follows the last one, as on a robot.

    Args:
        planner: ready to plan.
        budget: how long; a plan is begun only if one like the longest would fit.
        count: at most so many plans are timed, after one that warms up.

    Returns:
        ``p50_s`` and ``p95_s`` of whole plans, their stages, ``evaluations`` of the median plan; with
        ``plans`` 1 and a budget that is used up, the plan that would have warmed up is the measurement.
    """
    frames = Frames(planner.world_model.description)
    goal = frames.goal()
    plans: list[Any] = []
    longest = 0.0
    while len(plans) < count + WARM_UP:
        last = plans[-1] if plans else None
        begin = budget.clock()
        plans.append(planner.plan(frames.observation(), goal, warm_start=last, seed=len(plans)))
        longest = max(longest if len(plans) > WARM_UP + 1 else 0.0, budget.clock() - begin)
        if longest > budget.left:
            break
    timed = plans[WARM_UP:] or plans
    totals = [plan.timings["total"] for plan in timed]
    return {
        "plans": len(timed),
        "p50_s": quantile(totals, 0.5),
        "p95_s": quantile(totals, 0.95),
        "encode_s": quantile([plan.timings["encode"] for plan in timed], 0.5),
        "optimise_s": quantile([plan.timings["optimise"] for plan in timed], 0.5),
        "evaluations": int(quantile([plan.evaluations for plan in timed], 0.5)),
    }


def bench_preset(
    model: WorldModel, config: PlannerConfig, steps_per_s: float, budget: Budget, count: int = 20
) -> dict[str, Any]:
    """One preset's figures; those of a preset that cannot be measured in the budget are estimated.

    Args:
        model: plans with it.
        config: the preset.
        steps_per_s: candidate steps a second, as measured, for the estimate.
        budget: how long to measure.
        count: at most so many plans.

    Returns:
        As :func:`time_plans`, with ``estimated`` telling which of both it is.
    """
    from vjepa_ac_planner.planning.planner import Planner

    evaluations = count_evaluations(model.description, config)
    expected = evaluations * config.horizon / steps_per_s
    shape = {"horizon": config.horizon, "optimiser": config.optimiser}
    if 1.5 * expected > budget.left:
        return {
            **shape,
            "estimated": True,
            "plans": 0,
            "p50_s": expected,
            "p95_s": expected,
            "evaluations": evaluations,
        }
    return {**shape, "estimated": False, **time_plans(Planner(model, config), budget, count)}


def count_evaluations(description: ModelDescription, config: PlannerConfig) -> int:
    """How many candidates a plan scores, found by planning with a model that takes no time."""
    from vjepa_ac_planner.planning.planner import Planner

    frames = Frames(description)
    plan = Planner(_Instant(description), config).plan(frames.observation(), frames.goal())
    return int(plan.evaluations)


class Frames:
    """Random images of the model's size, and a state in its workspace."""

    def __init__(self, description: ModelDescription) -> None:
        import numpy as np

        self._size, self._rng = description.image_size, np.random.default_rng(0)
        box = description.workspace or ((0.4, -0.1, 0.25), (0.6, 0.1, 0.45))
        self._vector = np.array([*np.mean(box, axis=0), 3.1, 0.0, -0.8, 0.0])

    def frame(self) -> Frame:
        """Noise: the time does not depend on what an image shows."""
        from vjepa_ac_planner.types import Frame

        return Frame(self._rng.integers(0, 256, (self._size, self._size, 3), dtype="uint8"))

    def observation(self) -> Observation:
        """A new frame, always the same state."""
        from vjepa_ac_planner.types import Observation, RobotState

        return Observation(self.frame(), RobotState(self._vector))

    def goal(self) -> Goal:
        """A goal image."""
        from vjepa_ac_planner.types import Goal

        return Goal(self.frame())


class _Instant:
    """A model whose futures cost nothing and differ with the actions."""

    def __init__(self, description: ModelDescription) -> None:
        import torch

        self.description, self.device = description, torch.device("cpu")

    def encode(self, images: Sequence[Frame]) -> Tensor:
        import torch

        return torch.zeros(len(images), 1, 7)

    def rollout(self, z0: Tensor, s0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:

        from vjepa_ac_planner import geometry

        latents = 1.0 + (actions - 0.01).abs().cumsum(dim=1)
        states: torch.Tensor = geometry.integrate(s0, actions)
        return latents.unsqueeze(2), states
