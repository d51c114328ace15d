"""Estimates with their uncertainty: shares, ratios of sums and rank correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.statistics import spearman, wilson_interval
from vjepa_ac_planner.types import FloatArray

DRAWS = 1000
FEWEST_UNITS = 5
"""Fewer bags than this say nothing about the spread between bags: steps are resampled instead."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95% interval, and how much it rests on; NaN where there is nothing to go by."""

    value: float
    low: float
    high: float
    count: int

    def record(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.count}


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def share(numerator: FloatArray, denominator: FloatArray, bags: FloatArray) -> Estimate:
    """A share of trials, such as signs that agree.

    With several bags its interval is that of bags drawn anew: trials within one bag are alike. With
    few it is Wilson's, which is right near 0 and 1 too, but takes trials for independent: it is then
    too narrow, the more so the longer the bag.

    Args:
        numerator: [T] successes of each step.
        denominator: [T] trials of each step.
        bags: [T] which bag each step belongs to.
    """
    trials = int(denominator.sum())
    if trials == 0:
        return NOTHING
    if len(np.unique(bags)) >= FEWEST_UNITS:
        return ratio(numerator, denominator, bags, count=trials)
    low, high = wilson_interval(float(numerator.sum()), trials)
    return Estimate(float(numerator.sum() / trials), low, high, trials)


def ratio(
    numerator: FloatArray, denominator: FloatArray, bags: FloatArray, count: int | None = None
) -> Estimate:
    """A ratio of two sums, with the percentile interval of a bootstrap over bags (or steps, if few).

    Args:
        numerator: [T] finite.
        denominator: [T] finite, not negative; ones for a mean.
        bags: [T] which bag each step belongs to.
        count: what to call the number of trials; None takes the number of steps.
    """
    if len(numerator) == 0 or denominator.sum() <= 0:
        return NOTHING
    above, below = numerator, denominator
    if len(np.unique(bags)) >= FEWEST_UNITS:
        _, unit = np.unique(bags, return_inverse=True)
        above, below = (np.bincount(unit, values).astype(float) for values in (numerator, denominator))
    low, high = _interval(above, below)
    value = float(numerator.sum() / denominator.sum())
    return Estimate(value, low, high, len(numerator) if count is None else count)


def rank_correlation(groups: Sequence[tuple[FloatArray, FloatArray]]) -> Estimate:
    """Mean Spearman correlation of several groups, weighted by their size, with a bootstrap interval.

    Groups (one per bag and goal) are drawn anew where there are enough of them; else the steps within
    each, which follow one another and so are alike: the interval is then too narrow.

    Args:
        groups: pairs of [n] columns; those of fewer than 4 steps, or that do not vary, are left out.
    """
    usable = [(x, y) for x, y in groups if len(x) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0]
    if not usable:
        return NOTHING
    sizes = np.array([len(x) for x, _ in usable], float)
    values = np.array([spearman(x, y) for x, y in usable])
    if len(usable) >= FEWEST_UNITS:
        return ratio(values * sizes, sizes, np.arange(len(usable), dtype=float), int(sizes.sum()))
    rng = np.random.default_rng(0)  # one for all, or groups of one length would be drawn alike
    drawn = np.stack([_drawn_spearman(x, y, DRAWS, rng) for x, y in usable])  # [groups, draws]
    draws = (drawn * sizes[:, None]).sum(0) / sizes.sum()
    finite = draws[np.isfinite(draws)]
    low, high = np.percentile(finite, (2.5, 97.5)) if len(finite) else (math.nan, math.nan)
    return Estimate(float(np.average(values, weights=sizes)), float(low), float(high), int(sizes.sum()))


def _interval(above: FloatArray, below: FloatArray) -> tuple[float, float]:
    """Percentile interval of ``sum(above) / sum(below)`` over units [U] drawn anew, in bounded memory."""
    rng, draws = np.random.default_rng(0), []
    block = max(1, min(DRAWS, 1_000_000 // len(above)))
    for first in range(0, DRAWS, block):
        drawn = rng.integers(len(above), size=(min(block, DRAWS - first), len(above)))
        tops, bottoms = above[drawn].sum(1), below[drawn].sum(1)
        draws.append(tops[bottoms > 0] / bottoms[bottoms > 0])
    low, high = np.percentile(np.concatenate(draws), (2.5, 97.5))
    return float(low), float(high)


def _drawn_spearman(x: FloatArray, y: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """[draws] Spearman correlations of points drawn anew from ``n``; NaN where a draw is flat."""
    found = []
    block = max(1, min(draws, 1_000_000 // len(x)))
    for first in range(0, draws, block):
        shares = np.full(len(x), 1.0 / len(x))
        times = rng.multinomial(len(x), shares, size=min(block, draws - first))  # [block, n]
        a, b = _drawn_ranks(x, times), _drawn_ranks(y, times)
        a = a - (times * a).mean(1, keepdims=True)
        b = b - (times * b).mean(1, keepdims=True)
        size = np.sqrt((times * a**2).sum(1) * (times * b**2).sum(1))
        product = (times * a * b).sum(1)
        found.append(np.divide(product, size, out=np.full(len(size), np.nan), where=size > 0))
    return np.concatenate(found)


def _drawn_ranks(values: FloatArray, times: npt.NDArray[np.int64]) -> FloatArray:
    """[draws, n] mean ranks of points of which each is there ``times`` [draws, n] times."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    counts = np.add.reduceat(times[:, order], starts, axis=1)  # [draws, different values]
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2.0
    spread = np.repeat(ranks, np.diff(starts, append=len(values)), axis=1)
    unsorted = np.empty_like(spread)
    unsorted[:, order] = spread
    return unsorted
