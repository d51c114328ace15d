"""From a run in the simulator to the records of its report: pictures, pixels and measured distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.cli.page import slices, versions
from vjepa_ac_planner.control.mpc import Episode, Step
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.preprocess import as_seen
from vjepa_ac_planner.report.records import EpisodeRow, Image, Landscape, Report, StepRecord
from vjepa_ac_planner.sim.evaluate import TrialResult
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.safety import STEP_SECONDS
from vjepa_ac_planner.sim.tasks import REACHED, Task
from vjepa_ac_planner.types import FloatArray

PICTURE = 640
"""Size of the report's pictures [pixels]; the model sees smaller ones."""


class Recorder:
    """Watches a simulation through a second one with the same camera and finer pictures.

    Args:
        sim: the simulation that is controlled.
        task: what it does; put at its start already.
    """

    def __init__(self, sim: PandaSim, task: Task) -> None:
        self._sim, self._task = sim, task
        fine = replace(sim.config, width=PICTURE, height=PICTURE, faces=135_000, shadow_size=2048)
        self._show = PandaSim(fine)
        self._snapshots: list[FloatArray] = [task.start]

    def on_step(self, step: Step) -> None:
        """Remember the world after a step."""
        self._snapshots.append(self._sim.snapshot())

    def close(self) -> None:
        """Free the second GL context."""
        self._show.close()

    def report(
        self,
        episode: Episode,
        result: TrialResult,
        planner: Planner,
        *,
        preset: str,
        command: str,
        others: Sequence[TrialResult] = (),
    ) -> Report:
        """Everything that stands on the page."""
        self._snapshots[-1] = self._sim.snapshot()  # at rest, after the last hold
        pictures = [self._picture(snapshot) for snapshot in self._snapshots]
        states = [step.observation.state.vector for step in episode.steps] + [episode.final.state.vector]
        description = planner.world_model.description
        views = {
            "start": episode.steps[0].observation.frame,
            "goal": self._task.goals[-1].frame,
            "final": episode.final.frame,
        }
        return Report(
            task=self._task.name,
            seed=self._task.seed,
            model=description.name,
            preset=preset,
            threshold=REACHED,
            reached=result.success,
            stop_reason=episode.detail,
            goal_image=self._goal_picture(),
            final_image=pictures[-1],
            final_distance=result.final_error_m,
            steps=tuple(
                self._step(step, picture, error)
                for step, picture, error in zip(episode.steps, pictures, result.errors_m, strict=False)
            ),
            goal_pixel=_pair(self.pixels(self._task.goal_states[-1][None])[0]),
            trail=self.pixels(np.stack(states)),
            model_views={key: as_seen(frame, description.image_size) for key, frame in views.items()},
            control_period=STEP_SECONDS,
            landscapes=self._landscapes(episode, planner),
            episodes=tuple(_row(other) for other in others),
            timings=_timings(episode),
            limits=description.limits or "",
            command=command,
            versions=versions(planner, MuJoCo="mujoco"),
        )

    def film(self, between: int = 4) -> list[Image]:
        """Pictures of the whole run, ``between`` more of them within each step."""
        frames = []
        for first, second in zip(self._snapshots, self._snapshots[1:], strict=False):
            # Within a step the joints move by a few degrees: a straight line between two snapshots is
            # where they were, to the eye.
            for share in np.linspace(0.0, 1.0, between + 1)[:-1]:
                frames.append(self._picture((1 - share) * first + share * second))
        frames.append(self._picture(self._snapshots[-1]))
        return frames

    def pixels(self, states: FloatArray) -> FloatArray:
        """[N, 2] pixels, in the report's pictures, of the point between the fingertips of states [N, 7]."""
        poses = torch.tensor(np.asarray(states, dtype=np.float64))
        along = geometry.euler_to_matrix(poses[:, 3:6])[..., 2]  # the hand's z axis
        return self._show.project((poses[:, :3] + TCP_OFFSET * along).numpy())

    def _picture(self, snapshot: FloatArray) -> Image:
        self._show.restore(snapshot)
        return self._show.render()

    def _goal_picture(self) -> Image:
        """The goal image, taken again at the size of the report."""
        self._show.restore(self._task.start)
        self._show.reset_to(self._task.goal_states[-1])
        return self._show.render()

    def _step(self, step: Step, picture: Image, error: float) -> StepRecord:
        plan = step.plan
        states = step.observation.state.vector[None] if plan is None else plan.predicted_states
        return StepRecord(
            image=picture,
            distance=error,
            energy=np.nan if plan is None else plan.energy,
            zero_energy=np.nan if plan is None else plan.zero_energy,
            plan_seconds=step.timings["plan"],
            kind=step.command.kind,
            reason=step.command.reason,
            path=self.pixels(states),
            best_energy=() if plan is None else tuple(trace.best_energy for trace in plan.iterations),
            elite_energy=()
            if plan is None
            else tuple(trace.elite_mean_energy for trace in plan.iterations),
        )

    def _landscapes(self, episode: Episode, planner: Planner) -> tuple[Landscape, ...]:
        """Slices at the first step, and at the first one within reach of one action."""
        bound = planner.config.search.xyz
        goal = self._task.goal_states[-1][:3]
        ways = [goal - step.observation.state.position for step in episode.steps]
        near = next((i for i, way in enumerate(ways) if i and np.abs(way).max() < bound), None)
        maps: list[Landscape] = []
        for index in [0] if near is None else [0, near]:
            step = episode.steps[index]
            if step.plan is None:
                continue
            score = planner.energy(step.observation, step.goal)
            away = 100 * float(np.linalg.norm(ways[index]))
            where = f"Step {index + 1}, {away:.0f} cm away"
            maps += slices(planner, score, step.plan, ways[index], where)
        return tuple(maps)


def _pair(point: FloatArray) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _row(result: TrialResult) -> EpisodeRow:
    return EpisodeRow(
        seed=result.seed,
        start=result.start_error_m,
        final=result.final_error_m,
        steps=result.steps,
        reached=result.success,
        median_plan_seconds=float(np.median(result.plan_s)),
    )


def _timings(episode: Episode) -> dict[str, tuple[float, float]]:
    plans = [step.plan.timings for step in episode.steps if step.plan is not None]
    stages = plans[0] if plans else {}
    by_stage = {stage: [timings[stage] for timings in plans] for stage in stages}
    return {
        stage: (float(np.median(values)), float(np.percentile(values, 95)))
        for stage, values in by_stage.items()
    }
