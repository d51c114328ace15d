"""Time budgets, with a clock that is moved by hand."""

from __future__ import annotations

import pytest

from vjepa_ac_planner.bench.timing import Budget, in_turn, quantile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float):
        def function() -> None:
            self.now += seconds

        return function


def test_rivals_are_timed_in_turn_for_as_long_as_the_budget_lasts():
    clock, order = Clock(), []

    def rival(name: str, seconds: float):
        def function() -> None:
            order.append(name)
            clock.now += seconds

        return function

    slow, fast = in_turn(rival("slow", 2.0), rival("fast", 1.0), budget=Budget(11.0, clock))
    assert order == ["slow", "fast"] * 3  # one round to warm up, two that count; a fourth would end at 12 s
    assert (slow, fast) == ([2.0, 2.0], [1.0, 1.0])
    assert clock.now == 109.0


def test_what_is_too_long_for_its_budget_is_timed_once():
    clock = Clock()
    assert in_turn(clock.work(5.0), budget=Budget(6.0, clock)) == [[5.0]]
    assert in_turn(clock.work(5.0), budget=Budget(-1.0, clock)) == [[5.0]]


def test_a_slow_first_round_does_not_hide_that_more_fit():
    """Compiling or paging in: the first call is not what the others take."""
    clock = Clock()
    seconds = iter([8.0] + [0.5] * 100)
    (times,) = in_turn(lambda: clock.work(next(seconds))(), budget=Budget(20.0, clock))
    assert len(times) == 20 and set(times) == {0.5}


def test_rounds_are_limited():
    clock = Clock()
    (times,) = in_turn(clock.work(0.1), budget=Budget(1000.0, clock), rounds=3)
    assert times == pytest.approx([0.1] * 3)


def test_settling_is_part_of_what_is_timed():
    clock = Clock()
    (times,) = in_turn(clock.work(1.0), budget=Budget(10.0, clock), rounds=2, settle=clock.work(0.25))
    assert times == pytest.approx([1.25, 1.25])


def test_what_one_share_saves_the_next_one_gets():
    clock = Clock()
    budget = Budget(10.0, clock)
    first = budget.share(1, 2)
    assert first.left == 5.0
    clock.now += 1.0
    assert (budget.share(1, 1).left, first.left) == (9.0, 4.0)
    clock.now += 20.0
    assert budget.share(1, 1).left == 0.0


def test_quantiles():
    times = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert (quantile(times, 0.5), quantile(times, 0.95), quantile(times, 0.0)) == (3.0, 5.0, 1.0)
    assert quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert quantile([7.0], 0.5) == 7.0
