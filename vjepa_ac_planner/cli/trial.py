"""One trial of one policy: planner, random, pixels, or the script that knows everything."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner import __version__
from vjepa_ac_planner.bags.records import sha256
from vjepa_ac_planner.config import from_mapping, to_mapping
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Plans, Step
from vjepa_ac_planner.models import ModelDescription, find_model
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.sim.baselines import PixelOracleModel, RandomPlanner
from vjepa_ac_planner.sim.evaluate import TrialResult, run_oracle, run_trial
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.protocol import Protocol, goal_chain, loop_config, max_steps
from vjepa_ac_planner.sim.tasks import Task, make_task
from vjepa_ac_planner.training.probe import TaskDone, load_probe
from vjepa_ac_planner.types import Goal
from vjepa_ac_planner.world_model import WorldModel

if TYPE_CHECKING:
    from vjepa_ac_planner.bags.record import RunRecorder


@dataclass(frozen=True)
class Job:
    """Who acts, with what, and by which rules."""

    policy: str
    model: str
    device: str
    dtype: str
    preset: str
    protocol: Protocol = field(default_factory=Protocol)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the preset, replaced."""
    record: Path | None = None
    """Folder for one bag per trial."""
    scene: Mapping[str, Any] = field(default_factory=dict)
    """Options of the scene and its camera, replaced; see :class:`SimConfig`."""
    done_probe: Path | None = None
    """A classifier that ends a run when it sees the last goal reached; see :class:`TaskDone`."""

    @property
    def planner(self) -> PlannerConfig:
        """How plans are made."""
        return PlannerConfig.preset(self.preset, self.options)

    def settings(self) -> dict[str, Any]:
        """Everything that decides how a trial ends, ready for JSON."""
        files = find_model(self.model)
        learned = self.policy == "planner"
        return {
            "policy": self.policy,
            "model": files.description.name,
            "model_sha256": sha256(files.require_weights()) if learned else "",
            "device": self.device,
            "dtype": self.dtype,
            "preset": self.preset,
            "planner": to_mapping(self.planner),
            "protocol": to_mapping(self.protocol),
            **({"scene": dict(self.scene)} if self.scene else {}),
            **({"done_probe_sha256": sha256(self.done_probe)} if self.done_probe else {}),
            "versions": {
                "vjepa_ac_planner": __version__,
                **{name: importlib.metadata.version(name) for name in ("mujoco", "torch", "numpy")},
            },
        }


class Runner:
    """One simulation and one policy, used again and again.

    Args:
        job: what to run.
        on_step: called with every finished step, and the simulation that made it.
    """

    def __init__(self, job: Job, on_step: Callable[[Step, PandaSim], None] | None = None) -> None:
        self._job, self._on_step = job, on_step
        self._config = job.planner
        self._description = find_model(job.model).description
        self.sim = make_simulation(self._description, job.scene)
        self._planner: Planner | None = None
        self._imagination: PandaSim | None = None
        self._done: Callable[[Goal], TaskDone] | None = None
        if job.policy == "planner":
            model = WorldModel.load(job.model, device=job.device, dtype=job.dtype)  # type: ignore[arg-type]
            self._planner = Planner(model, self._config)
            if job.done_probe is not None:
                self._done = partial(TaskDone, model, load_probe(job.done_probe))
        elif job.policy == "pixels":
            self._imagination = PandaSim(self.sim.config)

    def task(self, name: str, seed: int) -> Task:
        """The task of a trial; the simulation is left at its start."""
        protocol = self._job.protocol
        return make_task(name, seed, self.sim, sub_goals=protocol.sub_goals, randomise=protocol.randomise)

    def run(self, name: str, seed: int) -> TrialResult:
        """One trial."""
        task = self.task(name, seed)
        if self._job.policy == "oracle":
            return run_oracle(self.sim, task)
        protocol = self._job.protocol
        if self._job.policy == "random":
            # It always finds a gain in moving: the gripper would never have its turn.
            protocol = replace(protocol, gripper="plan", switch="steps")
        # Seeds of searches are far apart, so that no two trials share their noise.
        loop = loop_config(task, protocol, 1000 * seed)
        policy, goals = self._policy(task), goal_chain(task, protocol)
        with self._recorder(task, goals, loop.seed) as recorder:

            def on_step(step: Step) -> None:
                if recorder is not None:
                    recorder.on_step(step)
                if self._on_step is not None:
                    self._on_step(step, self.sim)

            done = self._done(goals.goals[-1]) if self._done is not None else None
            result, episode = run_trial(
                self.sim,
                task,
                policy,
                goals,
                max_steps=max_steps(task, protocol),
                loop=loop,
                reached=None if done is None else lambda seen: goals.last and done(seen),
                on_step=on_step,
            )
            if recorder is not None:
                recorder.end(episode.final)
        return result

    @contextmanager
    def _recorder(self, task: Task, goals: GoalChain, seed: int) -> Iterator[RunRecorder | None]:
        if self._job.record is None or self._planner is None:
            yield None
            return
        from vjepa_ac_planner.bags.record import RunRecorder
        from vjepa_ac_planner.bags.records import RunInfo

        weights = find_model(self._job.model).require_weights()
        run = RunInfo.of(self._planner, weights, seed, task=task.name, task_seed=task.seed)
        path = self._job.record / f"{task.name}-{task.seed}.mcap"
        recorder = RunRecorder(path, run, base_frame="panda_link0")
        try:
            recorder.goals(goals.goals)
            yield recorder
            recorder.close()
        except BaseException:
            recorder.discard()  # the trial does not count, and is made again
            raise

    def _policy(self, task: Task) -> Plans:
        if self._planner is not None:
            return self._planner
        if self._imagination is None:
            return RandomPlanner(self._config.search.xyz)
        self._imagination.dress(task.appearance)
        model = PixelOracleModel(self._imagination, self.sim, self._description.image_size)
        return Planner(model, self._config)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.sim.close()
        if self._imagination is not None:
            self._imagination.close()


def make_simulation(description: ModelDescription, scene: Mapping[str, Any] | None = None) -> PandaSim:
    """The simulation that a model's tasks run in: images of twice its size, as in training."""
    size = 2 * description.image_size
    return PandaSim(from_mapping(SimConfig, {**(scene or {}), "width": size, "height": size}, "scene"))
