"""What every optimiser takes and gives: one signature, one answer, one idea of when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Literal, Protocol

import torch
from torch import Tensor

from vjepa_ac_planner.errors import PlanCancelled, PlanningError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.types import ACTION_DIM, IterationTrace

StopReason = Literal["iterations", "deadline", "converged", "cancelled"]
Cancel = Event | Callable[[], bool]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Optimised:
    """The answer of an optimiser."""

    actions: Tensor
    """[H, 7] the sequence to execute, in bounds."""
    elites: Tensor
    """[E, H, 7] the best candidates of the last iteration, best first."""
    iterations: tuple[IterationTrace, ...]
    evaluations: int
    """Number of action sequences scored; one that is scored with its gradient counts as three."""
    stop_reason: StopReason


class Optimiser(Protocol):
    """Finds a low-energy action sequence; pure: no images, no files, no ROS.

    A new one is a file with its configuration and this method, and a line in ``planner.OPTIMISERS``.
    """

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
        """Minimise ``score`` over sequences of ``space``.

        Args:
            score: [K, H, 7] -> [K]; an energy that is not finite counts as the worst.
            space: axes, bounds, horizon and device of the search.
            generator: source of all randomness; same seed, same device, same answer. (Not where gradients
                are followed on a GPU: its attention does not sum them in one order.)
            noise: [I, K, H, A] standard normal noise over the searched axes to use instead, for tests.
            init_mean: [H, 7] centre of the first proposal; None is 0.
            deadline: on the optimiser's clock (``time.monotonic`` unless given) [s]. At least one
                iteration is made; no further one is begun unless the shortest so far would fit.
            cancel: an event, or a callable that says whether to stop; asked before each iteration.

        Raises:
            PlanningError: no candidate has a finite energy.
            PlanCancelled: cancelled before the first iteration was complete.
        """
        ...


class Pace:
    """When to stop between iterations: cancelled, out of time, or converged.

    Only a deadline, a cancel or an early stop needs the device to have caught up, and costs one small
    transfer per iteration; without them the host never waits inside a plan.
    """

    def __init__(
        self,
        deadline: float | None,
        cancel: Cancel | None,
        converged_below: float | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._deadline, self._converged_below, self._clock = deadline, converged_below, clock
        self._cancelled = cancel.is_set if isinstance(cancel, Event) else cancel
        self._waits = deadline is not None or cancel is not None or converged_below is not None
        if self._cancelled is not None and self._cancelled():
            raise PlanCancelled("the plan was cancelled before its first iteration; ask for a new one")
        self._last = clock()
        self._shortest = float("inf")

    def check(self, spread: Tensor) -> StopReason | None:
        """After each iteration; ``spread`` [] says how far the search still moves (1: as at first)."""
        if not self._waits:
            return None
        disagreement = float(spread)  # waits for the device
        now = self._clock()
        self._shortest, self._last = min(self._shortest, now - self._last), now
        if self._cancelled is not None and self._cancelled():
            return "cancelled"
        if self._deadline is not None and now + self._shortest > self._deadline:
            return "deadline"
        if self._converged_below is not None and disagreement < self._converged_below:
            return "converged"
        return None


class Trace:
    """Collects what each iteration saw on the device; one transfer at the end brings it to the host.

    A row is ``[best, elite mean, finite count, mean (H x 7), std (H x 7)]``, float32.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, best: Tensor, elite_mean: Tensor, finite: Tensor, mean: Tensor, std: Tensor) -> None:
        """best, elite_mean, finite [] and the refitted mean, std [H, 7] of one iteration."""
        head = torch.stack((best, elite_mean, finite.to(best.dtype)))
        self._rows.append(torch.cat((head, mean.flatten(), std.flatten())))

    def collect(self, evaluations: int) -> tuple[IterationTrace, ...]:
        """All iterations.

        Raises:
            PlanningError: not one candidate in any iteration had a finite energy.
        """
        rows = torch.stack(self._rows).cpu().double().numpy()  # [I, 3 + 2 * H * 7]
        if not rows[:, 2].any():
            raise PlanningError(
                f"none of {evaluations} candidate action sequences has a finite energy; hold, and check "
                "the frame, the goal and the model's dtype (float32 rules out overflow)"
            )
        size = (rows.shape[1] - 3) // 2
        return tuple(
            IterationTrace(
                best_energy=float(row[0]),
                elite_mean_energy=float(row[1]),
                mean=row[3 : 3 + size].reshape(-1, ACTION_DIM),
                std=row[3 + size :].reshape(-1, ACTION_DIM),
                finite=int(row[2]),
            )
            for row in rows
        )
