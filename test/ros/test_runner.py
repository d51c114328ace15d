"""The worker thread: the newest job only, cancel at once, errors survived, an end that is one."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from vjepa_ac_planner.errors import InputError, PlanningError
from vjepa_ac_planner.ros import runner as module
from vjepa_ac_planner.ros.runner import GuardedPlanner, Runner

SOON = 10.0


class Bench:
    """A runner, and jobs that wait for its cancel."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(module, "_RETRY_SECONDS", 0.05)
        self.cancel, self.errors = threading.Event(), []
        self.done, self.begun = [], threading.Semaphore(0)
        self.runner = Runner(self.cancel, self.errors.append)

    def long(self, name):
        def job():
            self.begun.release()
            assert self.cancel.wait(SOON)
            self.done.append(name)

        return job

    def short(self, name):
        def job():
            assert not self.cancel.is_set()
            self.done.append(name)

        return job


@pytest.fixture
def bench(monkeypatch):
    bench = Bench(monkeypatch)
    yield bench
    assert bench.runner.close(SOON)


def test_a_job_is_run_in_another_thread(bench):
    seen = []
    bench.runner.post(lambda: seen.append(threading.current_thread().name))
    assert bench.runner.wait_idle(SOON)
    assert seen == ["planning"]


def test_a_new_job_cancels_the_old_one_and_follows_it(bench):
    bench.runner.post(bench.long("old"))
    assert bench.begun.acquire(timeout=SOON)
    assert bench.runner.busy and not bench.cancel.is_set()
    bench.runner.post(bench.short("new"))
    assert bench.runner.wait_idle(SOON)
    assert bench.done == ["old", "new"]


def test_of_several_waiting_jobs_only_the_newest_is_run(bench):
    gate = threading.Event()

    def deaf():
        bench.begun.release()
        assert gate.wait(SOON)

    bench.runner.post(deaf)
    assert bench.begun.acquire(timeout=SOON)
    for name in "abc":
        bench.runner.post(bench.short(name))
    gate.set()
    assert bench.runner.wait_idle(SOON)
    assert bench.done == ["c"]


def test_nothing_to_do_cancels_too(bench):
    bench.runner.post(bench.long("old"))
    assert bench.begun.acquire(timeout=SOON)
    bench.runner.post(None)
    assert bench.runner.wait_idle(SOON)
    assert bench.done == ["old"]
    assert not bench.runner.busy


def test_a_job_that_raises_is_tried_again(bench):
    tries = []

    def job():
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise ValueError("not yet")

    bench.runner.post(job)
    assert bench.runner.wait_idle(SOON)
    assert [str(error) for error in bench.errors] == ["not yet"] * 2
    assert min(b - a for a, b in pairwise(tries)) >= 0.04


def test_a_job_that_raises_is_given_up_for_a_new_one(bench):
    bench.runner.post(lambda: 1 / 0)
    while not bench.errors:
        time.sleep(0.001)
    bench.runner.post(bench.short("new"))
    assert bench.runner.wait_idle(SOON)
    assert bench.done == ["new"]
    seen = len(bench.errors)
    time.sleep(0.15)
    assert len(bench.errors) == seen


def test_closing_cancels_and_ends_the_thread(bench):
    threads = threading.active_count()
    bench.runner.post(bench.long("old"))
    assert bench.begun.acquire(timeout=SOON)
    assert bench.runner.close(SOON)
    assert bench.done == ["old"]
    assert threading.active_count() == threads - 1
    bench.runner.post(bench.short("late"))
    time.sleep(0.05)
    assert bench.done == ["old"]


def test_closing_says_when_a_job_does_not_end(bench):
    gate = threading.Event()
    bench.runner.post(lambda: gate.wait(SOON) and None)
    time.sleep(0.05)
    assert not bench.runner.close(0.1)
    gate.set()


def test_a_start_is_made_once_and_first():
    order = []
    runner = Runner(threading.Event(), order.append, lambda: order.append("start"))
    for name in ("a", "b"):
        runner.post(lambda name=name: order.append(name))
        assert runner.wait_idle(SOON)
    assert runner.close(SOON)
    assert order == ["start", "a", "b"]


class Model:
    """A planner that answers or raises."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def plan(self, observation, goal, **options):
        self.asked.append((observation, goal, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def guarded(answer, arrived=None):
    told, plans = [], []
    model = Model(answer)
    return GuardedPlanner(model, told.append, lambda: arrived, plans.append), model, told, plans


def test_a_plan_goes_through_with_its_options_and_is_timed():
    planner, model, told, plans = guarded("plan", time.monotonic() - 0.2)
    options = {"warm_start": "before", "deadline_s": 0.5, "seed": 7, "gripper": "only"}
    assert planner.plan("seen", "goal", **options) == "plan"
    options["cancel"] = None
    assert model.asked == [("seen", "goal", options)]
    assert (told, plans, planner.failures, len(planner.seconds)) == ([], ["plan"], 0, 1)
    assert planner.waits[0] == pytest.approx(0.2, abs=0.1)


def test_times_are_of_the_last_thousand_and_the_count_is_of_all():
    """A count that stops at a thousand says after ten minutes that nothing is planned any more."""
    planner, *_ = guarded("plan", time.monotonic())
    for _ in range(1005):
        planner.plan("seen", "goal")
    assert (planner.made, len(planner.seconds), len(planner.waits)) == (1005, 1000, 1000)


def test_errors_of_ours_stay_what_they_are():
    planner, _, told, plans = guarded(InputError("goal: no"))
    with pytest.raises(InputError, match="goal: no"):
        planner.plan("seen", "goal")
    assert (told, plans, planner.failures, planner.made) == ([], [], 1, 0)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), MemoryError(), ValueError("shape")])
def test_any_other_error_becomes_a_failed_plan(error):
    planner, _, told, plans = guarded(error)
    with pytest.raises(PlanningError, match=type(error).__name__) as caught:
        planner.plan("seen", "goal")
    assert caught.value.__cause__ is error
    assert (told, plans, planner.failures) == ([error], [], 1)
