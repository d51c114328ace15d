"""Pipelining: the next plan is made while the last command is carried out.

Without it a step takes the time of its plan and the time of its motion; with it, the longer of the two.
The price: the search begins at the latent and state in which the world model expects the robot to be at
the end of the motion, not at what the camera shows there. So a plan made ahead is only a proposal. When
the real frame has come it is compared with the expectation, and then either

- confirmed: its target stays where it was, seen from the measured pose, and all its evidence (energies,
  expected states, surprise) is computed again from the real frame, by two rollouts; or
- dropped, for a plan made from the real frame, as if there had been none: the world looks other than
  expected, the arm is elsewhere, the goal is another, or the plan does not improve on standing still.

The loop and the safety layer know nothing of it: :class:`Pipeline` stands in for the planner and for the
environment, and every plan passes :meth:`SafetyLayer.judge` with the newest observation at the moment
its command is sent. A confirmed plan bears the stamp of the real frame, on which all that it says rests;
the search has only proposed it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.control.environment import Environment, MovesOn, ReportsStatus, RobotStatus
from vjepa_ac_planner.control.mpc import Plans, carried_out
from vjepa_ac_planner.control.rotation import pose_difference
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.planning.energy import LatentEnergy, latent_energy
from vjepa_ac_planner.planning.optimiser import Cancel
from vjepa_ac_planner.planning.proposals import GripperSearch
from vjepa_ac_planner.types import Command, FloatArray, Goal, Observation, Plan, RobotState

Fate = Literal["confirmed", "surprised", "elsewhere", "other goal", "no gain", "failed"]
"""What became of a plan made ahead."""


class Foresees(Plans, Protocol):
    """The part of :class:`~vjepa_ac_planner.planning.planner.Planner` that pipelining needs."""

    def energy(self, observation: Observation, goal: Goal | Tensor) -> LatentEnergy:
        """The scorer of one planning problem."""
        ...


class Overlaps(Environment, MovesOn, ReportsStatus, Protocol):
    """A world in which something can be done while a command is carried out."""

    def begin(self, command: Command) -> None:
        """Start to carry a command out, and return at once."""
        ...

    def finish(self) -> None:
        """Return when the duration of the command that was begun is over."""
        ...


@dataclass(frozen=True)
class PipelineConfig:
    """When a plan made ahead is dropped."""

    max_surprise: float = ranged(1.0, low=0.0, high=100.0)
    """Largest |z_observed - z_expected| at which a plan made ahead is confirmed, as a share of the change
    that the motion was expected to make: beyond 1 the last frame would have foretold this one better."""
    max_deviation: float = ranged(0.03, low=0.0, high=0.5, unit="m")
    """Largest distance of the arm from where it was expected to be [m]."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class _Question:
    """What the planner was asked, and its answer."""

    observation: Observation
    """With its latent."""
    goal: Goal | Tensor
    energy: LatentEnergy
    plan: Plan
    deadline_s: float | None
    cancel: Cancel | None
    seed: int | None
    gripper: GripperSearch | None


@dataclass(frozen=True)
class _Ahead:
    """A plan for what is expected to be seen."""

    expected: Observation
    change: float
    """|z_expected - z_before|."""
    plan: Plan
    goal: Goal | Tensor
    seed: int | None
    gripper: GripperSearch | None


class Pipeline:
    """Planner and environment of a receding horizon at once, each of which knows what the other does.

    Hand it to :class:`~vjepa_ac_planner.control.mpc.RecedingHorizon` in both places.

    Args:
        planner: makes the plans.
        world: carries the commands out.
        config: when a plan made ahead is dropped.
    """

    def __init__(self, planner: Foresees, world: Overlaps, config: PipelineConfig | None = None) -> None:
        self._planner, self._world, self.config = planner, world, config or PipelineConfig()
        self._last: _Question | None = None
        self._ahead: _Ahead | None = None
        self.fates: Counter[Fate] = Counter()
        """How many plans made ahead came to which end."""

    def forget(self) -> None:
        """Begin afresh: what was planned ahead belongs to a run that has ended."""
        self._last = self._ahead = None

    # The planner.

    def plan(
        self,
        observation: Observation,
        goal: Goal | Tensor,
        *,
        warm_start: Plan | None = None,
        deadline_s: float | None = None,
        cancel: Cancel | None = None,
        seed: int | None = None,
        gripper: GripperSearch | None = None,
    ) -> Plan:
        """The plan made ahead, confirmed by what is seen; or a new one.

        See :meth:`vjepa_ac_planner.planning.planner.Planner.plan`.
        """
        begin = time.monotonic()
        ahead, self._ahead, self._last = self._ahead, None, None
        energy = self._planner.energy(observation, goal)
        seen = replace(observation, latent=energy.z0)
        plan = None
        if ahead is not None:
            same = goal is ahead.goal and (seed, gripper) == (ahead.seed, ahead.gripper)
            fate, plan = self._confirm(ahead, seen, energy) if same else ("other goal", None)
            self.fates[fate] += 1
        if plan is None:
            left = None if deadline_s is None else max(deadline_s - (time.monotonic() - begin), 0.001)
            plan = self._planner.plan(
                seen,
                goal,
                warm_start=warm_start,
                deadline_s=left,
                cancel=cancel,
                seed=seed,
                gripper=gripper,
            )
        self._last = _Question(seen, goal, energy, plan, deadline_s, cancel, seed, gripper)
        return plan

    def carried_out(self, plan: Plan, action: FloatArray) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.carried_out`."""
        return self._planner.carried_out(plan, action)

    # The environment.

    def observe(self) -> Observation:
        """See ``Environment``."""
        return self._world.observe()

    def newest(self) -> Observation:
        """See ``MovesOn``."""
        return self._world.newest()

    def status(self) -> RobotStatus:
        """See ``ReportsStatus``."""
        return self._world.status()

    def apply(self, command: Command) -> None:
        """Carry a command out; while it moves the arm, plan for what will be seen then."""
        last, self._last, self._ahead = self._last, None, None
        self._world.begin(command)
        try:
            if command.kind == "move" and last is not None:
                self._ahead = self._plan_ahead(last, command)
        except PlannerError:
            # The next step plans from what it sees; if that fails too, the loop says why.
            self.fates["failed"] += 1
        finally:
            self._world.finish()

    def _plan_ahead(self, last: _Question, command: Command) -> _Ahead:
        """A plan for the end of a command.

        It is asked as the loop will ask: for the same goal, with the next seed. Should the loop ask
        something else, the plan is dropped.
        """
        seen = last.observation
        action = carried_out(last.plan, seen.state.vector, command.target)
        before = self._planner.carried_out(last.plan, action)
        state = RobotState(before.predicted_states[1], seen.state.stamp)
        # The frame and the stamps stay: they say how old the knowledge is that this rests on.
        expected = Observation(seen.frame, state, before.predicted_latent)
        seed = None if last.seed is None else last.seed + 1
        plan = self._planner.plan(
            expected,
            last.goal,
            warm_start=before,
            deadline_s=last.deadline_s,
            cancel=last.cancel,
            seed=seed,
            gripper=last.gripper,
        )
        change = float(latent_energy(expected.latent, last.energy.z0))
        return _Ahead(expected, change, plan, last.goal, seed, last.gripper)

    def _confirm(self, ahead: _Ahead, seen: Observation, energy: LatentEnergy) -> tuple[Fate, Plan | None]:
        """What becomes of a plan made ahead, and if it stands, the plan as seen from here."""
        begin = time.monotonic()
        surprise = float(latent_energy(energy.z0, ahead.expected.latent))
        if not surprise <= self.config.max_surprise * ahead.change:
            return "surprised", None
        away = float(np.linalg.norm(seen.state.position - ahead.expected.state.position))
        if away > self.config.max_deviation:
            return "elsewhere", None
        plan = _seen_from(ahead.plan, seen, energy, surprise)
        if plan is None or not plan.improves:
            return "no gain", None
        timings = {**plan.timings, "confirm": time.monotonic() - begin}
        return "confirmed", replace(plan, timings=timings)


def _seen_from(plan: Plan, seen: Observation, energy: LatentEnergy, surprise: float) -> Plan | None:
    """The plan with its first target kept, and its evidence, from another observation; None if not finite.

    The gripper's change is kept as planned: what it meant does not depend on where the arm is.
    """
    actions = np.array(plan.actions)
    actions[0, :6] = pose_difference(seen.state.vector, plan.predicted_states[1])[:6]
    wanted = torch.tensor(actions, dtype=torch.float32)
    evidence = energy.evaluate(torch.stack((wanted, torch.zeros_like(wanted))))
    numbers = torch.cat((evidence.energies, energy.current()[None], evidence.by_step[0])).tolist()
    if not all(map(math.isfinite, numbers)):
        return None
    plan_energy, zero_energy, current_energy, *by_step = numbers
    return replace(
        plan,
        actions=actions,
        predicted_states=evidence.states[0].double().cpu().numpy(),
        energy=plan_energy,
        zero_energy=zero_energy,
        current_energy=current_energy,
        predicted_energies=tuple(by_step),
        stamp=seen.frame.stamp,
        surprise=surprise,
        predicted_latent=evidence.latents[0, 0].clone(),
        observed_latent=energy.z0,
    )
