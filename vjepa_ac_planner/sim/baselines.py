"""What a planner must beat: random actions, and pixels instead of latents.

Both stand in for :class:`~vjepa_ac_planner.planning.planner.Planner` or its model, so that loop, safety
layer, optimiser and goals are the very same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.planning.optimiser import Cancel
from vjepa_ac_planner.planning.proposals import GripperSearch
from vjepa_ac_planner.preprocess import frames_to_pixels
from vjepa_ac_planner.sim.panda import WORKSPACE, PandaSim, Vector
from vjepa_ac_planner.sim.safety import STEP_SECONDS
from vjepa_ac_planner.types import Command, Frame, Goal, Observation, Plan


class RandomPlanner:
    """Translations drawn uniformly from the planner's box, staying in the workspace.

    Where the gripper is searched too, one step in four opens or closes it.

    Args:
        max_step: largest change along each axis [m].
    """

    def __init__(self, max_step: float = 0.075) -> None:
        self.max_step = max_step

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
        """A random action, presented as an improvement so that it is carried out."""
        state = observation.state.vector
        rng = np.random.default_rng(seed)
        action = np.zeros(7)
        if gripper != "only":
            move = rng.uniform(-self.max_step, self.max_step, 3)
            action[:3] = WORKSPACE.clip(state[:3] + move) - state[:3]
        if gripper in ("with", "only") and rng.uniform() < 0.25:
            action[6] = float(rng.integers(2)) - state[6]
        following = geometry.step(torch.from_numpy(state.copy()), torch.from_numpy(action)).numpy()
        return Plan(
            actions=action[None],
            predicted_states=np.stack([state, following]),
            energy=0.0,
            zero_energy=1.0,
            current_energy=1.0,
            iterations=(),
            evaluations=0,
            seed=seed,
            stop_reason="iterations",
            stamp=observation.frame.stamp,
            gripper=gripper,
        )

    def carried_out(self, plan: Plan, action: Vector) -> Plan:
        """The plan as it was: it expects nothing of the world."""
        return plan


@dataclass(frozen=True)
class PixelDescription:
    """The part of a model's description that the planner reads."""

    workspace: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        WORKSPACE.low,
        WORKSPACE.high,
    )


class PixelOracleModel:
    """A "world model" whose latent is the image itself, and whose prediction is the simulation.

    It knows the true outcome of every action, contact included: a second simulation is put into the
    state of the real one, carries the actions out, and is rendered. No learned predictor can know
    more of what will be seen; what is left is the energy in pixel space and the search. It is far too slow
    to plan many candidates.

    Args:
        imagination: a simulation of its own, with the camera and look of the real one.
        real: the simulation that is controlled.
        image_size: side of the preprocessed frame [pixels], as the compared model has it.
    """

    def __init__(self, imagination: PandaSim, real: PandaSim, image_size: int) -> None:
        self._sim, self._real, self._size = imagination, real, image_size
        self.device = torch.device("cpu")
        self.description: Any = PixelDescription()

    def encode(self, images: Sequence[Frame]) -> Tensor:
        """Frames -> [B, S * S, 3] normalised pixels."""
        return frames_to_pixels(images, self._size, self.device).flatten(2).mT.contiguous()

    def rollout(self, z0: Tensor, s0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """z0 [N, D], s0 [7], actions [K, H, 7] -> true images [K, H, N, D], states [K, H + 1, 7]."""
        states = geometry.integrate(s0.double(), actions.double())  # [K, H + 1, 7]
        now = self._real.snapshot()
        latents = []
        for sequence, changes in zip(states, actions, strict=True):
            self._sim.restore(now)
            frames = [
                self._imagine(state.numpy().copy(), float(change[6]))
                for state, change in zip(sequence[1:], changes, strict=True)
            ]
            latents.append(self.encode(frames))
        return torch.stack(latents), states.to(s0.dtype)

    def _imagine(self, target: Vector, gripper_change: float) -> Frame:
        target[:3] = WORKSPACE.clip(target[:3])
        if gripper_change == 0.0:  # as the safety layer has it: what is held stays held
            target[6] = self._sim.reference()[6]
        self._sim.apply(Command("move", target, STEP_SECONDS))
        return Frame(self._sim.render())
