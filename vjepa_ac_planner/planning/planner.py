"""One plan: encode, optimise, and gather the evidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, InputError, PlanningError
from vjepa_ac_planner.planning.cem import CEM
from vjepa_ac_planner.planning.energy import Evidence, LatentEnergy, latent_energy
from vjepa_ac_planner.planning.gradient import Gradient
from vjepa_ac_planner.planning.hybrid import Hybrid
from vjepa_ac_planner.planning.icem import ICEM
from vjepa_ac_planner.planning.mppi import MPPI
from vjepa_ac_planner.planning.optimiser import Cancel, Optimised, Optimiser
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import ActionSpace, GripperSearch, with_gripper
from vjepa_ac_planner.types import FloatArray, Frame, Goal, Observation, Plan

OPTIMISERS: dict[str, Callable[[PlannerConfig], Optimiser]] = {
    "cem": lambda config: CEM(config.cem),
    "icem": lambda config: ICEM(config.icem),
    "mppi": lambda config: MPPI(config.mppi),
    "gradient": lambda config: Gradient(config.gradient),
    "hybrid": lambda config: Hybrid(config.hybrid),
}
"""Every optimiser by the name it has in :class:`PlannerConfig`."""

DESCENDING = ("gradient", "hybrid")
"""Those that follow the energy's gradient."""

_GOALS_KEPT = 32


class PlanningModel(Protocol):
    """The part of :class:`~vjepa_ac_planner.world_model.WorldModel` that planning needs."""

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        ...

    @property
    def description(self) -> Any:
        """What the model is; ``workspace``, if it has one, bounds positions [m]."""
        ...

    def encode(self, images: Sequence[Frame]) -> Tensor:
        """Frames -> [B, N, D] normalised latents."""
        ...

    def rollout(self, z0: Tensor, s0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """z0 [N, D], s0 [7], actions [K, H, 7] -> latents [K, H, N, D], states [K, H + 1, 7]."""
        ...


class Planner:
    """Plans towards goal images with a world model.

    Args:
        world_model: encodes frames and rolls actions out.
        config: how to plan; see :meth:`PlannerConfig.preset`.

    Raises:
        ConfigError: an optimiser that needs gradients, which the model has not (float8).
    """

    def __init__(self, world_model: PlanningModel, config: PlannerConfig) -> None:
        if config.optimiser in DESCENDING and not getattr(world_model, "differentiable", True):
            allowed = ", ".join(name for name in OPTIMISERS if name not in DESCENDING)
            raise ConfigError(
                f"optimiser: received {config.optimiser!r}, and products in float8 have no gradients; "
                f"allowed {allowed}, or a model with dtype bfloat16"
            )
        self.world_model, self.config = world_model, config
        self.optimiser = OPTIMISERS[config.optimiser](config)
        self._chunk = self._gradient_chunk = config.chunk
        self._goals: dict[int, tuple[Goal, Tensor]] = {}

    @torch.no_grad()
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
        noise: Tensor | None = None,
    ) -> Plan:
        """Find the actions whose imagined future is nearest to the goal.

        Args:
            observation: current frame and state.
            goal: goal image, or its latent [N, D]. Latents of goal images are kept by identity.
            warm_start: the previous plan, if its first action has just been carried out (where it came
                out otherwise, from :meth:`carried_out`): its prediction is compared with what is seen now
                (``surprise``), and with ``config.warm_start`` the search begins where it left off.
            deadline_s: time the whole call may take [s]; late by at most one iteration.
            cancel: an event, or a callable that says whether to stop.
            seed: seed of the search; None takes the configured one.
            gripper: search it together with the arm (``"with"``), leave it as it is (``"without"``), or
                search nothing else (``"only"``); None does what ``config.search.axes`` says.
            noise: [I, K, H, A] noise to use instead of drawing it, for tests.

        Returns:
            The plan with its evidence. Check ``plan.improves`` before moving.

        Raises:
            InputError: goal latents of another shape than the model's, or a warm start of another horizon.
            ConfigError: a seed out of range.
            PlanningError: no candidate, or not even the chosen plan, has a finite energy.
            PlanCancelled: cancelled before the first iteration was complete.
            DeviceMemoryError: not even one candidate fits the device.
        """
        begin = time.monotonic()
        deadline = None if deadline_s is None else begin + deadline_s
        seed = self.config.seed if seed is None else seed
        check_range("seed", seed, 0, 2**63 - 1)
        energy = self._energy(observation, goal)
        encoded = self._clock()

        space = self.space(observation, gripper)
        found = self.optimiser.optimise(
            energy,
            space,
            generator=torch.Generator().manual_seed(seed),
            noise=noise,
            init_mean=self._init_mean(warm_start),
            deadline=deadline,
            cancel=cancel,
        )
        self._chunk, self._gradient_chunk = energy.chunk, energy.gradient_chunk
        optimised = self._clock()

        standing_still = torch.zeros_like(found.actions)
        evidence = energy.evaluate(torch.stack((found.actions, standing_still)))
        expected = None if warm_start is None else warm_start.predicted_latent
        surprise = None if expected is None else float(latent_energy(energy.z0, expected))
        plan = self._plan(found, evidence, energy, observation, seed, surprise)
        end = self._clock()
        timings = {
            "encode": encoded - begin,
            "optimise": optimised - encoded,
            "evidence": end - optimised,
            "total": end - begin,
        }
        return replace(plan, timings=timings, gripper=gripper)

    @torch.no_grad()
    def carried_out(self, plan: Plan, action: FloatArray) -> Plan:
        """A plan of this planner whose first action came out otherwise, with what is expected now.

        Energies stay those of the plan as it was made.

        Args:
            plan: as it was made.
            action: [7] what was carried out in place of its first action.
        """
        device = self.world_model.device
        actions = np.concatenate((action[None], plan.actions[1:]))
        wanted = torch.tensor(actions, dtype=torch.float32, device=device)
        start = torch.tensor(plan.predicted_states[0], dtype=torch.float32, device=device)
        # Two of them, as where a plan's evidence is gathered: a compiled model is made anew for one.
        latents, states = self.world_model.rollout(plan.observed_latent, start, wanted.expand(2, -1, -1))
        return replace(
            plan,
            actions=actions,
            predicted_states=states[0].float().cpu().numpy(),
            predicted_latent=latents[0, 0].clone(),
        )

    def energy(self, observation: Observation, goal: Goal | Tensor) -> LatentEnergy:
        """The scorer of one planning problem, for landscapes and studies.

        Raises:
            InputError: goal latents of another shape than the model's.
        """
        with torch.no_grad():
            return self._energy(observation, goal)

    def encode_goal(self, goal: Goal) -> Tensor:
        """[N, D] latent of a goal image, kept for the last 32 goals by identity."""
        kept = self._goals.get(id(goal))
        if kept is None:
            # The goal is stored too: while it is, no other object can get its id.
            kept = self._goals[id(goal)] = goal, self.world_model.encode([goal.frame])[0]
            if len(self._goals) > _GOALS_KEPT:
                self._goals.pop(next(iter(self._goals)))
        return kept[1]

    def _energy(self, observation: Observation, goal: Goal | Tensor) -> LatentEnergy:
        model = self.world_model
        z_goal = self.encode_goal(goal) if isinstance(goal, Goal) else goal.to(model.device)
        known = observation.latent
        z0 = model.encode([observation.frame])[0] if known is None else known.to(model.device)
        if z_goal.shape != z0.shape:
            raise InputError(
                f"goal: expected a goal image or a latent of shape {tuple(z0.shape)} "
                f"[tokens, channels], received {tuple(z_goal.shape)}; encode it with this model"
            )
        s0 = torch.tensor(observation.state.vector, dtype=torch.float32, device=model.device)
        return LatentEnergy(
            model,
            z0,
            s0,
            z_goal,
            self._chunk,
            self.config.energy_over,
            self._gradient_chunk,
            self._goal_state(goal),
            self.config.state_weight,
        )

    def _goal_state(self, goal: Goal | Tensor) -> Tensor | None:
        if not isinstance(goal, Goal) or goal.state is None:
            return None
        return torch.tensor(goal.state.vector, dtype=torch.float32, device=self.world_model.device)

    def space(self, observation: Observation, gripper: GripperSearch | None = None) -> ActionSpace:
        """The search space of one planning problem.

        Raises:
            InputError: the search is to stay in a workspace that the model does not name.
        """
        config, device = self.config, self.world_model.device
        workspace = start = None
        if config.search.stay_in_workspace:
            box = getattr(self.world_model.description, "workspace", None)
            if box is None:
                raise InputError(
                    "search: stay_in_workspace is set, but this model's description names no workspace; "
                    "add one, or switch stay_in_workspace off"
                )
            workspace = torch.tensor(box, dtype=torch.float32, device=device)
            start = torch.tensor(observation.state.position, dtype=torch.float32, device=device)
        search = with_gripper(config.search, gripper)
        return ActionSpace(search, config.horizon, device, start, workspace)

    def _init_mean(self, warm_start: Plan | None) -> Tensor | None:
        """The previous actions one step on; the last one is repeated, so H = 1 goes on as before."""
        if warm_start is None or not self.config.warm_start:
            return None
        if len(warm_start.actions) != self.config.horizon:
            raise InputError(
                f"warm_start: expected a plan of {self.config.horizon} actions, "
                f"received {len(warm_start.actions)}; start without one after a change of horizon"
            )
        actions = torch.tensor(warm_start.actions, dtype=torch.float32)
        return torch.cat((actions[1:], actions[-1:]))

    def _plan(
        self,
        found: Optimised,
        evidence: Evidence,
        energy: LatentEnergy,
        observation: Observation,
        seed: int,
        surprise: float | None,
    ) -> Plan:
        current = energy.current()[None]
        numbers = torch.cat((evidence.energies, current, evidence.by_step[0])).tolist()
        plan_energy, zero_energy, current_energy, *by_step = numbers
        if not all(map(_finite, numbers)):
            raise PlanningError(
                f"energies must be finite, received {plan_energy} for the plan, {zero_energy} for standing "
                f"still, {current_energy} for the observation; hold, and check the frame and the goal"
            )
        return Plan(
            actions=found.actions.cpu().numpy(),
            predicted_states=evidence.states[0].float().cpu().numpy(),
            energy=plan_energy,
            zero_energy=zero_energy,
            current_energy=current_energy,
            iterations=found.iterations,
            evaluations=found.evaluations,
            seed=seed,
            stop_reason=found.stop_reason,
            stamp=observation.frame.stamp,
            margin=self.config.hold_margin,
            predicted_energies=tuple(by_step),
            surprise=surprise,
            predicted_latent=evidence.latents[0, 0].clone(),
            observed_latent=energy.z0,
        )

    def _clock(self) -> float:
        """Now, with all work of the device done, so that stages are timed and not queued."""
        if self.world_model.device.type == "cuda":
            torch.cuda.synchronize(self.world_model.device)
        return time.monotonic()


def _finite(number: float) -> bool:
    return number - number == 0.0
