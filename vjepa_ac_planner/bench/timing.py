"""Measuring within a given time: budgets in seconds and not in rounds, rivals in turn, medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]
"""Seconds from some fixed moment."""


class Budget:
    """A stretch of time that several measurements share; machines differ, and so do their neighbours.

    Args:
        seconds: how long it lasts from now.
        clock: what the time is.
    """

    def __init__(self, seconds: float, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds until its end; negative after it."""
        return self._end - self.clock()

    def share(self, weight: float, of: float) -> Budget:
        """A budget of ``weight / of`` of what is left now: what one saves, the next ones get."""
        return Budget(max(0.0, self.left) * min(1.0, weight / of), self.clock)


def in_turn(
    *functions: Callable[[], Any],
    budget: Budget,
    rounds: int = 20,
    settle: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Seconds of each function, called alternately, so that a disturbance meets all alike.

    The first round warms up. It counts only if it leaves no time for another, which is how a measurement
    ends that is far too long for its budget.

    Args:
        functions: what to time.
        budget: when to stop; a round is begun only if one like the last would fit.
        rounds: at most so many are timed.
        settle: waits until the device has done all it was told.

    Returns:
        For every function its times, as many for each.
    """
    clock = budget.clock
    times: list[list[float]] = [[] for _ in functions]
    warm_up: list[float] = []
    longest = 0.0
    while len(times[0]) < rounds:
        begin = clock()
        taken = []
        for function in functions:
            settle()
            start = clock()
            function()
            settle()
            taken.append(clock() - start)
        longest = max(longest if times[0] else 0.0, clock() - begin)
        if not warm_up:
            warm_up = taken
        else:
            for record, seconds in zip(times, taken, strict=True):
                record.append(seconds)
        if longest > budget.left:
            break
    return times if times[0] else [[seconds] for seconds in warm_up]


def quantile(times: Sequence[float], share: float) -> float:
    """The smallest time that at least this share of all does not exceed (0.5: a median, 0.95: p95)."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))]


def settle(device: torch.device) -> Callable[[], None]:
    """What waits until ``device`` has done all it was told."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
