"""Figures that several rooms quote, each computed in one place: rank correlation, interval of a share."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_Z = 1.959964  # 97.5% quantile of the normal distribution


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two columns [n]; ties share their mean rank, NaN if one is flat."""
    first, second = _ranks(np.asarray(x)), _ranks(np.asarray(y))
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / size) if size > 0 else math.nan


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95% Wilson score interval of a share; unlike the normal one it is right near 0 and 1.

    Args:
        successes: number of successes.
        trials: number of trials, at least 1.
    """
    rate, spread = successes / trials, _Z * _Z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (
        0.0 if successes == 0 else max(0.0, centre - half),
        1.0 if successes == trials else min(1.0, centre + half),
    )


def _ranks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2.0
    return mean[inverse]
