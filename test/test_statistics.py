"""Rank correlation and the interval of a share, against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.statistics import spearman, wilson_interval

columns = st.lists(st.integers(-50, 50), min_size=4, max_size=30, unique=True).map(np.array)


@given(columns, st.randoms(use_true_random=False))
def test_rank_correlation_sees_order_only(x, random):
    y = x.astype(float).copy()
    random.shuffle(y)
    value = spearman(x, y)
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert spearman(np.exp(x / 20.0), y) == pytest.approx(value)
    assert spearman(x, -y) == pytest.approx(-value)
    assert spearman(x, x**3) == pytest.approx(1.0)


def test_ties_share_their_mean_rank():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 1, 1], [1, 1, 1]))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Reference values: Brown, Cai and DasGupta (2001) formula, computed independently.
    [
        (98, 100, 0.9300, 0.9945),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
    ],
)
def test_wilson_interval(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=2e-4)
    assert wilson_interval(0, trials)[0] == 0.0 and wilson_interval(trials, trials)[1] == 1.0
