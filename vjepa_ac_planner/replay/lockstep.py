"""Lockstep replay: a plan for every sample of a recording, in order, deterministic, as fast as it goes.

The loop is open: whatever the plan says, the next sample is what the recorded robot did. So a plan never
starts from the one before (its first action was not carried out), the safety layer judges in the shadow,
and beside each plan the same world model rates what the robot did, standing still, a copy of the action
before, and random ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.bags.resample import ResampleRules, Sample
from vjepa_ac_planner.control.safety import SafetyLayer, Verdict
from vjepa_ac_planner.errors import InputError, PlanningError
from vjepa_ac_planner.planning.energy import LatentEnergy, latent_energy
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.preprocess import frames_to_pixels
from vjepa_ac_planner.replay.goals import ReplayGoal, goal_at
from vjepa_ac_planner.replay.recording import Recording, Survey
from vjepa_ac_planner.replay.scores import cosines, moving, signs_agree
from vjepa_ac_planner.replay.table import StepTable, TableBuilder, action_cells
from vjepa_ac_planner.types import STATE_NAMES, FloatArray, Observation, Plan

RANDOM = 16
"""Random actions that each step is compared with."""


@dataclass(frozen=True)
class Moment:
    """One replayed sample, for pages, films and annotated bags."""

    sample: Sample
    goal: int | None
    """Which goal was planned for; None behind the last one."""
    recorded: FloatArray | None
    """[7] what the robot did next; None at the end of a segment."""
    plan: Plan | None
    error: str
    """Why there is no plan."""
    verdict: Verdict | None
    """What the safety layer would have done."""
    energy: LatentEnergy | None
    """Scores further actions at this moment."""
    row: Mapping[str, Any]
    """Its cells of the table; surprises come in with the next sample."""


@dataclass(frozen=True)
class Replay:
    """A whole recording, replayed."""

    steps: StepTable
    goals: tuple[ReplayGoal, ...]
    survey: Survey
    seconds: float
    """Wall-clock time of planning and scoring all steps [s]."""


class Lockstep:
    """Replays recordings through one planner.

    Args:
        planner: plans, and rates the other actions.
        safety: judges every plan; nothing is carried out.
        step_seconds: time of one step [s].
        seed: sample i is planned with seed + i.
    """

    def __init__(self, planner: Planner, safety: SafetyLayer, step_seconds: float, seed: int = 0) -> None:
        self._planner, self._safety = planner, safety
        self._step_seconds, self._seed = step_seconds, seed

    def run(
        self,
        recording: Recording,
        found: Survey,
        goals: Sequence[ReplayGoal],
        on_moment: Callable[[Moment], None] | None = None,
        rules: ResampleRules | None = None,
    ) -> Replay:
        """Plan at every sample up to the last goal.

        Args:
            recording: the samples, the same as when it was surveyed.
            found: its survey, which knows what the robot does next.
            goals: in order of time.
            on_moment: called after every sample.
            rules: how messages become samples, as for the survey.

        Raises:
            InputError: the recording gives other samples than when it was surveyed.
            DeviceMemoryError: not even one candidate fits the device.
        """
        begin = time.perf_counter()
        actions = found.actions()
        shuffled = _shuffled(actions, self._seed)
        pixels = [self._pixels(goal.goal.frame) for goal in goals]
        table, unfinished = TableBuilder(), None
        before: _Prediction | None = None
        last_goal = last_segment = None
        self._safety.reset()
        number = -1
        for number, sample in enumerate(recording.samples(self._step_seconds, rules)):
            if number >= len(found) or sample.time != found.times[number]:
                raise InputError(
                    f"sample {number} at {sample.time:.3f} s was not there when the bag was first read; "
                    "is it still being written?"
                )
            goal = goal_at(goals, sample.time, self._step_seconds / 2)
            if sample.segment != last_segment:
                before = None
                self._safety.reset()
            if goal != last_goal:
                self._safety.new_goal()
            last_goal, last_segment = goal, sample.segment
            row = _cells(sample, actions[number])
            moment = Moment(sample, goal, _known(actions[number]), None, "", None, None, row)
            if goal is not None:
                previous = actions[number - 1] if number and before is not None else np.full(7, np.nan)
                row |= self._goal_cells(sample, goals[goal], goal, pixels[goal])
                row |= action_cells("previous", np.nan_to_num(previous))
                moment, before = self._moment(
                    moment,
                    row,
                    goals[goal],
                    actions[number:],
                    np.nan_to_num(previous),
                    shuffled[number],
                    before,
                )
            else:
                before = None
            # A row is complete when the next sample has shown what came of it.
            if unfinished is not None:
                table.add(unfinished)
            unfinished = row
            if on_moment is not None:
                on_moment(moment)
        if number + 1 != len(found) or unfinished is None:
            raise InputError(
                f"the bag gave {len(found)} samples when it was first read and {number + 1} now; "
                "is it still being written?"
            )
        table.add(unfinished)
        return Replay(table.table(), tuple(goals), found, time.perf_counter() - begin)

    def _moment(
        self,
        moment: Moment,
        row: dict[str, Any],
        goal: ReplayGoal,
        following: FloatArray,
        previous: FloatArray,
        shuffled: FloatArray,
        before: _Prediction | None,
    ) -> tuple[Moment, _Prediction]:
        """Plan, rate the other actions, and compare what is seen with what was expected."""
        observation, index = moment.sample.observation, moment.sample.index
        now = max(observation.frame.stamp, observation.state.stamp)
        refused = self._safety.refuse(observation, now)  # live, nothing would be planned then
        plan, error, begin = None, "", time.perf_counter()
        try:
            plan = self._planner.plan(observation, goal.goal, seed=self._seed + index)
        except (PlanningError, InputError) as problem:  # a device that gives out is another matter
            error = f"{type(problem).__name__}: {problem}"
        row["plan_seconds"] = time.perf_counter() - begin
        energy = self._planner.energy(observation, goal.goal)
        if before is not None:
            before.compare(energy.z0)
            if plan is not None and before.surprise is not None:
                plan = replace(plan, surprise=before.surprise)
        candidates = self._candidates(plan, observation, index, following, previous, shuffled)
        horizon = self._planner.config.horizon
        known = len(following) >= horizon and bool(np.isfinite(following[:horizon]).all())
        prediction = self._rate(row, candidates, energy, plan is not None, known)
        if moment.recorded is not None:
            row |= self._chance(moment.recorded, candidates[-RANDOM:, 0].cpu().double().numpy())
        if not np.isfinite(shuffled).all():
            prediction.shuffled = False
        if plan is not None:
            row |= action_cells("planned", plan.action)
            row["improves"] = plan.improves
        verdict = refused or self._safety.judge(plan, observation, now, failure=error)
        row |= {
            "command": verdict.command.kind,
            "limits": "; ".join(f"{finding.limit} ({finding.effect})" for finding in verdict.findings),
            "reason": verdict.command.reason,
            "error": error,
        }
        if self._safety.paused is not None:  # the recording goes on, and so does the judging
            self._safety.resume()
        judged = replace(moment, plan=plan, error=error, verdict=verdict, energy=energy)
        return judged, prediction

    def _candidates(
        self,
        plan: Plan | None,
        observation: Observation,
        index: int,
        following: FloatArray,
        previous: FloatArray,
        shuffled: FloatArray,
    ) -> Tensor:
        """[5 + RANDOM, H, 7] zero, recorded, previous, shuffled, planned and the random sequences."""
        horizon = self._planner.config.horizon
        still = np.zeros((horizon, 7))
        recorded, other = still.copy(), still.copy()
        count = min(horizon, len(following))
        recorded[:count] = np.nan_to_num(following[:count])
        other[0] = np.nan_to_num(shuffled)
        planned = still if plan is None else plan.actions
        fixed = np.stack([still, recorded, np.tile(previous, (horizon, 1)), other, planned])
        random = self._random(observation, index)
        return torch.cat((torch.tensor(fixed, dtype=torch.float32, device=random.device), random))

    def _random(self, observation: Observation, index: int) -> Tensor:
        """[RANDOM, H, 7] draws from the first proposal of the search, by another seed than its own."""
        config, model = self._planner.config, self._planner.world_model
        box = getattr(model.description, "workspace", None) if config.search.stay_in_workspace else None
        space = ActionSpace(
            config.search,
            config.horizon,
            model.device,
            torch.tensor(observation.state.position, dtype=torch.float32, device=model.device),
            None if box is None else torch.tensor(box, dtype=torch.float32, device=model.device),
        )
        # The state is part of the seed, so that no two recordings share their draws.
        entropy = [
            self._seed,
            index,
            *np.frombuffer(observation.state.vector.tobytes(), np.uint32).tolist(),
        ]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        noise = space.draw(1, RANDOM, torch.Generator().manual_seed(seed))[0]
        return space.clip(space.mean + space.std * noise)

    def _rate(
        self, row: dict[str, Any], candidates: Tensor, energy: LatentEnergy, planned: bool, recorded: bool
    ) -> _Prediction:
        """Energies of all candidates into the row; what each expects to see next."""
        with torch.no_grad():
            evidence = energy.evaluate(candidates)
            row["energy"] = float(latent_energy(energy.z0, energy.z_goal))
        energies = evidence.energies.tolist()
        row["energy_zero"], row["energy_previous"] = energies[0], energies[2]
        row["energy_random"] = float(np.mean(energies[5:]))
        row |= action_cells("random", candidates[5, 0].cpu().numpy())
        if planned:
            row["energy_planned"] = energies[4]
        if recorded:
            row["energy_recorded"] = energies[1]
            row["random_worse"] = float(np.mean([value > energies[1] for value in energies[5:]]))
        return _Prediction(row, energy.z0, evidence.latents[:4, 0].clone())

    def _chance(self, recorded: FloatArray, draws: FloatArray) -> dict[str, float]:
        """How well random actions [RANDOM, 7] agree with the recorded one [7], on average."""
        repeated = np.tile(recorded, (len(draws), 1))
        agree, _ = signs_agree(repeated, draws, ActionSpace(self._planner.config.search, 1).axes)
        return {
            "random_agree": float(agree.mean()),
            "random_cosine": float(cosines(repeated, draws)[0].mean()),
        }

    def _goal_cells(
        self, sample: Sample, goal: ReplayGoal, number: int, pixels: Tensor
    ) -> dict[str, float]:
        cells = {
            "goal": float(number),
            "at_goal": float(abs(sample.time - goal.until) < self._step_seconds / 2),
            "pixels": float((self._pixels(sample.observation.frame) - pixels).abs().mean()),
        }
        if goal.state is not None:
            way = goal.state[:3] - sample.observation.state.position
            cells["distance"] = float(np.linalg.norm(way))
        return cells

    def _pixels(self, frame: Any) -> Tensor:
        """[3, S, S] what the model receives."""
        size = self._planner.world_model.description.image_size
        return frames_to_pixels([frame], size, torch.device("cpu"))[0]


class _Prediction:
    """What the model expects to see next, for each of four actions, until it is seen."""

    def __init__(self, row: dict[str, Any], z0: Tensor, latents: Tensor) -> None:
        self._row, self._z0, self._latents = row, z0, latents  # [N, D], [4, N, D]
        self.surprise: float | None = None
        self.shuffled = True
        """Whether there is another action to mistake the recorded one for."""

    def compare(self, z: Tensor) -> None:
        """Note how far the latent [N, D] that is seen now is from each expectation."""
        zero, recorded, _, shuffled = latent_energy(self._latents, z).tolist()
        self._row |= {"surprise": recorded, "surprise_zero": zero}
        self._row["surprise_copy"] = float(latent_energy(self._z0, z))
        if self.shuffled:
            self._row["surprise_shuffled"] = shuffled
        self.surprise = recorded


def _cells(sample: Sample, recorded: FloatArray) -> dict[str, Any]:
    frame, state = sample.observation.frame, sample.observation.state
    return {
        "index": sample.index,
        "time": sample.time,
        "segment": sample.segment,
        **dict(zip(STATE_NAMES, state.vector.tolist(), strict=True)),
        **action_cells("recorded", _known(recorded)),
        "image_age": sample.time - frame.stamp,
        "state_age": sample.time - state.stamp,
        "skew": abs(frame.stamp - state.stamp),
    }


def _known(action: FloatArray) -> FloatArray | None:
    return action if np.isfinite(action).all() else None


def _shuffled(actions: FloatArray, seed: int) -> FloatArray:
    """[T, 7] for every recorded action that moves, that of another such step; NaN where there is none."""
    shuffled = np.full_like(actions, np.nan)
    movers = np.flatnonzero(np.isfinite(actions).all(1) & moving(np.nan_to_num(actions)))
    if len(movers) > 1:
        order = np.random.default_rng([seed, len(movers)]).permutation(movers)
        shuffled[order] = actions[np.roll(order, 1)]
    return shuffled
