from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.replay.statistics import (
    _drawn_spearman,
    rank_correlation,
    ratio,
    share,
)
from vjepa_ac_planner.statistics import spearman, wilson_interval

columns = st.lists(st.integers(-50, 50), min_size=4, max_size=30, unique=True).map(np.array)


@given(columns, st.integers(1, 3))
def test_points_drawn_anew_are_ranked_as_if_they_stood_there(x, ties):
    """The fast way over multiplicities, against ranking every draw by itself."""
    x = (x // ties).astype(float)
    y = np.random.default_rng(len(x)).permutation(x)
    found = _drawn_spearman(x, y, 5, np.random.default_rng(0))
    times = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=5)
    plain = [spearman(np.repeat(x, n), np.repeat(y, n)) for n in times]
    assert found == pytest.approx(plain, nan_ok=True)


def test_a_share_of_few_bags_has_wilsons_interval_and_of_many_one_between_bags():
    agree, trials = np.array([3.0, 2.0, 3.0]), np.full(3, 3.0)
    few = share(agree, trials, np.zeros(3))
    assert (few.value, few.count) == (8 / 9, 9)
    assert (few.low, few.high) == wilson_interval(8, 9)
    # Ten bags that agree wholly or not at all: the interval must show that bags differ so.
    agree = np.repeat([1.0, 0.0], 5).repeat(20)
    bags = np.arange(10.0).repeat(20)
    many = share(agree, np.ones(200), bags)
    assert many.value == 0.5 and many.low <= 0.3 and many.high >= 0.7
    narrow = wilson_interval(100, 200)
    assert many.high - many.low > 2 * (narrow[1] - narrow[0])


def test_a_ratio_of_sums_and_its_interval():
    top, bottom = np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 10.0)
    found = ratio(top, bottom, np.zeros(4))
    assert found.value == 0.25 and found.low < 0.25 < found.high
    constant = ratio(bottom, bottom, np.zeros(4))
    assert (constant.low, constant.high) == (1.0, 1.0)
    assert math.isnan(ratio(np.zeros(0), np.zeros(0), np.zeros(0)).value)


def test_groups_are_weighed_by_size_and_short_or_flat_ones_left_out():
    rising = np.arange(4.0), np.arange(4.0)
    falling = np.arange(12.0), -np.arange(12.0)
    flat = np.arange(5.0), np.zeros(5)
    short = np.arange(3.0), np.arange(3.0)
    found = rank_correlation([rising, falling, flat, short])
    assert found.value == pytest.approx((4 * 1 + 12 * -1) / 16) and found.count == 16
    assert rank_correlation([flat, short]).count == 0


def test_the_interval_of_noise_holds_zero_and_that_of_order_does_not():
    rng = np.random.default_rng(3)
    noise = rank_correlation([(rng.normal(size=60), rng.normal(size=60))])
    assert noise.low < 0 < noise.high
    order = rank_correlation([(np.arange(60.0), np.arange(60.0) + rng.normal(size=60))])
    assert order.low > 0.9


def test_groups_are_drawn_each_by_itself():
    """Four groups of one length tell twice as much as one of them, also where they are alike."""
    rng = np.random.default_rng(3)
    group = np.arange(24.0), np.arange(24.0) + rng.normal(0, 8, 24)
    one, four = rank_correlation([group]), rank_correlation([group] * 4)
    assert (four.high - four.low) / (one.high - one.low) == pytest.approx(0.5, abs=0.1)
