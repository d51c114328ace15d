"""Candidates shared out over processes: the same plans, and what happens when a rank fails or dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import vjepa_ac_planner
from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.errors import (
    ConfigError,
    DeviceMemoryError,
    InputError,
    NotReadyError,
    PlanCancelled,
    PlanningError,
)
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.planner import OPTIMISERS, Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.sharded import Crew, ShardConfig, ShardedPlanner, serve, shares
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState
from vjepa_ac_planner.world_model import WorldModel

DATA = Path(__file__).parents[1] / "data"
ROOT = Path(vjepa_ac_planner.__file__).parents[1]
STATE = [0.45, 0.05, 0.35, -3.05, 0.03, -1.91, 0.1]
CONFIG = PlannerConfig(horizon=2, cem=CEMConfig(samples=25, elites=6, iterations=3))


def frame(seed):
    return Frame(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8))


OBSERVATION, GOAL = Observation(frame(0), RobotState(STATE)), Goal(frame(1))


def fragile(name, **options):
    """The model that is asked for, on a rank that can be made to fail by what it is sent."""
    model = WorldModel.load(name, **options)
    if "other" in name:
        next(model.predictor.parameters()).data.add_(1.0)
    rollout = model.rollout

    def careful(z0, s0, actions):
        first = float(actions[0, 0, 6])
        if first == 0.625:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        if first == 0.375:
            raise ZeroDivisionError("a defect of this rank")
        if first == 0.125 and len(actions) > 2:
            raise RuntimeError("out of memory")
        return rollout(z0, s0, actions)

    model.rollout = careful
    return model


@contextmanager
def ranks(count, monkeypatch):
    """The other ranks as processes, and this one told that it is rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **shared, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(1, count)
    ]
    for name, value in {**shared, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, mini_model):
    """The golden model in a folder of its own, twice: under its name and as ``other``."""
    folder = tmp_path_factory.mktemp("model")
    text = yaml.safe_dump(_plain(to_mapping(mini_model.description)))
    for name in ("mini-ac", "other"):
        shutil.copy(DATA / "mini-ac.pt", folder / f"{name}.pt")
        (folder / f"{name}.yaml").write_text(text)
    return folder


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="class")
def crew(weights):
    with pytest.MonkeyPatch.context() as monkeypatch, ranks(2, monkeypatch) as processes:
        with Crew.join(ShardConfig(timeout_s=30.0, patience_s=300.0)) as crew:
            yield crew
        assert processes[0].wait(60) == 0  # told to go home, it went


@pytest.fixture(scope="class")
def model(crew, weights):
    return crew.load(weights / "mini-ac.pt", device="cpu", dtype="float32")


class TestTwoRanks:
    @pytest.mark.parametrize("optimiser", OPTIMISERS)
    def test_the_plan_is_that_of_one_rank(self, crew, model, optimiser):
        config = replace(CONFIG, optimiser=optimiser)
        planner = crew.planner(model, config)
        assert isinstance(planner, ShardedPlanner)
        alone = Planner(model, config).plan(OBSERVATION, GOAL, seed=5)
        together = planner.plan(OBSERVATION, GOAL, seed=5)
        np.testing.assert_allclose(together.actions, alone.actions, atol=1e-5)
        assert together.energy == pytest.approx(alone.energy, abs=1e-6)
        assert together.evaluations == alone.evaluations
        assert together.actions.any()

    def test_both_ranks_work(self, crew, model):
        energy = crew.planner(model, CONFIG).energy(OBSERVATION, GOAL)
        seen = []
        energy.alone.world_model = Watched(model, seen)
        energy(torch.randn(25, 2, 7).clamp(-0.05, 0.05))
        assert seen == [13]

    def test_with_a_chunk_that_divides_the_shares_the_energies_are_the_same_to_the_last_bit(
        self, crew, model
    ):
        config = replace(CONFIG, chunk=4)
        actions = 0.05 * torch.randn(16, 2, 7, generator=torch.Generator().manual_seed(1))
        alone = Planner(model, config).energy(OBSERVATION, GOAL)(actions)
        together = crew.planner(model, config).energy(OBSERVATION, GOAL)(actions)
        assert torch.equal(alone, together)

    def test_gradients_too(self, crew, model):
        actions = 0.05 * torch.randn(7, 2, 7, generator=torch.Generator().manual_seed(2))
        alone = Planner(model, CONFIG).energy(OBSERVATION, GOAL).value_and_gradient(actions)
        together = crew.planner(model, CONFIG).energy(OBSERVATION, GOAL).value_and_gradient(actions)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other)
        assert together[1].abs().max() > 0

    def test_whatever_makes_up_the_energy_reaches_the_other_ranks(self, crew, model):
        config = replace(CONFIG, energy_over="mean", state_weight=0.5)
        goal = Goal(GOAL.frame, state=RobotState([0.5, *STATE[1:]]))
        actions = 0.05 * torch.randn(9, 2, 7, generator=torch.Generator().manual_seed(6))
        alone = Planner(model, config).energy(OBSERVATION, goal)(actions)
        torch.testing.assert_close(crew.planner(model, config).energy(OBSERVATION, goal)(actions), alone)
        without = Planner(model, CONFIG).energy(OBSERVATION, goal)(actions)
        assert (alone - without).abs().min() > 1e-4

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_too_few_candidates_to_share_stay_on_rank_0(self, crew, model, count):
        actions = torch.zeros(count, 2, 7)
        actions[0, 0, 6] = 0.625  # no other rank could score it
        assert crew.planner(model, CONFIG).energy(OBSERVATION, GOAL)(actions).isfinite().all()

    def test_a_problem_is_told_again_when_another_came_between(self, crew, model):
        planner = crew.planner(model, CONFIG)
        actions = 0.05 * torch.randn(8, 2, 7, generator=torch.Generator().manual_seed(3))
        first, second = planner.energy(OBSERVATION, GOAL), planner.energy(OBSERVATION, Goal(frame(2)))
        before, between, after = first(actions), second(actions), first(actions)
        assert torch.equal(before, after)
        assert not torch.equal(before, between)

    def test_the_deadline_is_kept_and_leaves_nothing_behind(self, crew, model):
        config = replace(CONFIG, cem=replace(CONFIG.cem, iterations=1000))
        planner = crew.planner(model, config)
        begin = time.monotonic()
        plan = planner.plan(OBSERVATION, GOAL, deadline_s=0.3)
        assert plan.stop_reason == "deadline"
        assert time.monotonic() - begin < 5.0
        asked = iter((False, False, True))
        assert planner.plan(OBSERVATION, GOAL, cancel=lambda: next(asked)).stop_reason == "cancelled"
        with pytest.raises(PlanCancelled):
            planner.plan(OBSERVATION, GOAL, cancel=lambda: True)
        alone = Planner(model, CONFIG).plan(OBSERVATION, GOAL)
        together = crew.planner(model, CONFIG).plan(OBSERVATION, GOAL)
        np.testing.assert_allclose(together.actions, alone.actions, atol=1e-5)

    def test_a_rank_that_is_short_of_memory_takes_smaller_chunks(self, crew, model):
        actions = torch.zeros(16, 2, 7)
        actions[8:, 0, 6] = 0.125
        together = crew.planner(model, CONFIG).energy(OBSERVATION, GOAL)(actions)
        alone = Planner(model, CONFIG).energy(OBSERVATION, GOAL)(actions)
        torch.testing.assert_close(together, alone)

    def test_a_rank_that_fails_is_named_and_serves_on(self, crew, model):
        energy = crew.planner(model, CONFIG).energy(OBSERVATION, GOAL)
        actions = torch.zeros(8, 2, 7)
        actions[4:, 0, 6] = 0.625
        with pytest.raises(DeviceMemoryError, match="rank 1: DeviceMemoryError: cpu: out of memory"):
            energy(actions)
        actions[4:, 0, 6] = 0.375
        with pytest.raises(PlanningError, match="rank 1: ZeroDivisionError: a defect of this rank"):
            energy(actions)
        assert energy(torch.zeros(8, 2, 7)).isfinite().all()

    def test_a_failure_of_rank_0_leaves_no_answer_behind(self, crew, model):
        energy = crew.planner(model, CONFIG).energy(OBSERVATION, GOAL)
        actions = 0.05 * torch.randn(8, 2, 7, generator=torch.Generator().manual_seed(4))
        wanted = energy(actions)
        energy.alone.world_model = None
        with pytest.raises(AttributeError):
            energy(-actions)
        energy.alone.world_model = model
        assert torch.equal(energy(actions), wanted)

    def test_other_weights_on_another_rank_are_refused(self, crew, weights, model):
        with pytest.raises(ConfigError, match=r"rank 1: .*other\.pt' has other weights there than"):
            crew.load(weights / "other.pt", device="cpu", dtype="float32")
        with pytest.raises(InputError, match="received 'cuda:1', allowed 'auto', 'cuda' or 'cpu'"):
            crew.load(weights / "mini-ac.pt", device="cuda:1")
        crew.load(weights / "mini-ac.pt", device="cpu", dtype="float32")
        assert crew.planner(model, CONFIG).plan(OBSERVATION, GOAL).evaluations == 75


class Watched:
    """A model that notes how many candidates it is asked for."""

    def __init__(self, model, seen):
        self._model, self._seen = model, seen

    def rollout(self, z0, s0, actions):
        self._seen.append(len(actions))
        return self._model.rollout(z0, s0, actions)


@contextmanager
def ticking():
    """A thread that notes the time every 10 ms."""
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    yield ticks
    stop.set()
    thread.join()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_falls_silent_is_an_error_within_a_bounded_time(weights, monkeypatch, how):
    with ranks(2, monkeypatch) as processes:
        with Crew.join(ShardConfig(timeout_s=1.0, patience_s=300.0)) as crew:
            model = crew.load(weights / "mini-ac.pt", device="cpu", dtype="float32")
            planner = crew.planner(model, CONFIG)
            planner.plan(OBSERVATION, GOAL)
            os.kill(processes[0].pid, how)
            begin = time.monotonic()
            with ticking() as ticks:
                with pytest.raises(PlanningError, match=r"rank 1 of 2 is gone.*hold, and start all ranks"):
                    planner.plan(OBSERVATION, GOAL)
                seconds = time.monotonic() - begin
            assert seconds < 10.0  # one, on a machine that has nothing else to do
            # Other threads, such as the one that sends setpoints, go on while this one waits.
            assert len(ticks) > 20 * seconds - 2
            begin = time.monotonic()
            with pytest.raises(PlanningError, match="rank 1 of 2 is gone"):
                planner.plan(OBSERVATION, GOAL)
            assert time.monotonic() - begin < 0.9  # at once: nobody is asked any more
        processes[0].kill()


@pytest.mark.slow
def test_ranks_go_when_rank_0_is_gone(weights, monkeypatch):
    with ranks(2, monkeypatch) as processes:
        crew = Crew.join(ShardConfig(patience_s=300.0))
        torch.distributed.destroy_process_group()  # as the end of the process would
        del crew
        assert processes[0].wait(60) == 1


def test_ranks_that_do_not_come_are_an_error(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(NotReadyError, match=r"rank 0 of 2: not all ranks met within 0\.5 s"):
        Crew.join(ShardConfig(patience_s=0.5))


def test_a_crew_of_one_is_the_plain_planner(weights):
    with Crew.join() as crew:
        model = crew.load(weights / "mini-ac.pt", device="cpu")
        assert crew.size == 1
        assert type(crew.planner(model, CONFIG)) is Planner


@given(st.integers(1, 2000), st.integers(1, 64))
def test_shares_are_fair_and_complete(count, size):
    counts = shares(count, size)
    assert sum(counts) == count
    assert len(counts) <= size
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= min(count, 2)
    assert len(counts) == min(size, max(count // 2, 1))


if __name__ == "__main__":  # one of the other ranks
    torch.set_num_threads(1)
    serve(fragile)
