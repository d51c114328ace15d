"""Many reach episodes of one policy, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vjepa_ac_planner.control.mpc import LoopConfig, Plans
from vjepa_ac_planner.models import ModelDescription, find_model
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.sim.baselines import PixelOracleModel, RandomPlanner
from vjepa_ac_planner.sim.evaluate import ReachResult, reach_result, run_episode
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.tasks import Task, make_task
from vjepa_ac_planner.world_model import WorldModel

if TYPE_CHECKING:
    from vjepa_ac_planner.bags.record import RunRecorder


@dataclass(frozen=True)
class Job:
    """Who acts, and with what."""

    policy: str
    model: str
    device: str
    dtype: str
    preset: str
    record: Path | None = None
    """Folder for one bag per episode."""


def evaluate(job: Job, seeds: range, processes: int) -> Iterator[ReachResult]:
    """Run one episode per seed; with several processes they come in the order in which they end."""
    if processes == 1 or len(seeds) == 1:
        with Runner(job) as runner:
            yield from map(runner.run, seeds)
        return
    threads = max(1, _cores() // processes)
    # Spawned: a forked child would share torch's threads and the GL context.
    with multiprocessing.get_context("spawn").Pool(processes, _start, (job, threads)) as pool:
        yield from pool.imap_unordered(_work, seeds)


class Runner:
    """One simulation and one policy, used again and again."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._config = PlannerConfig.preset(job.preset)
        self._sim = make_simulation(find_model(job.model).description)
        self._planner: Planner | None = None
        self._imagination: PandaSim | None = None
        if job.policy == "planner":
            model = WorldModel.load(job.model, device=job.device, dtype=job.dtype)  # type: ignore[arg-type]
            self._planner = Planner(model, self._config)
        elif job.policy == "pixels":
            self._imagination = PandaSim(self._sim.config)

    def run(self, seed: int) -> ReachResult:
        """One episode."""
        task = make_task("reach", seed, self._sim)
        # Seeds of searches are far apart, so that no two episodes share their noise.
        loop = LoopConfig(seed=1000 * seed)
        policy = self._policy(task)
        with self._recorder(task, loop.seed) as recorder:
            on_step = None if recorder is None else recorder.on_step
            episode = run_episode(self._sim, task, policy, loop=loop, on_step=on_step)
            if recorder is not None:
                recorder.end(episode.final)
        return reach_result(task, episode)

    def _recorder(self, task: Task, seed: int) -> AbstractContextManager[RunRecorder | None]:
        if self._job.record is None or self._planner is None:
            return nullcontext()
        from vjepa_ac_planner.bags.record import RunRecorder
        from vjepa_ac_planner.bags.records import RunInfo

        weights = find_model(self._job.model).require_weights()
        run = RunInfo.of(self._planner, weights, seed, task=task.name, task_seed=task.seed)
        path = self._job.record / f"{task.name}-{task.seed}.mcap"
        recorder = RunRecorder(path, run, base_frame="panda_link0")
        recorder.goals(task.goals[-1:])
        return recorder

    def _policy(self, task: Task) -> Plans:
        if self._planner is not None:
            return self._planner
        if self._imagination is None:
            return RandomPlanner(self._config.search.xyz)
        task.begin(self._sim)
        size = find_model(self._job.model).description.image_size
        return Planner(PixelOracleModel(self._imagination, self._sim.objects(), size), self._config)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._sim.close()
        if self._imagination is not None:
            self._imagination.close()


def make_simulation(description: ModelDescription) -> PandaSim:
    """The simulation that a model's tasks run in: images of twice its size, as in training."""
    size = 2 * description.image_size
    return PandaSim(SimConfig(width=size, height=size))


# One runner per worker process, made when the process starts.
_runners: list[Runner] = []


def _start(job: Job, threads: int) -> None:
    torch.set_num_threads(threads)
    _runners.append(Runner(job))


def _work(seed: int) -> ReachResult:
    return _runners[0].run(seed)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
