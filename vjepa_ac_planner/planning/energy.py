"""Energy of an action sequence: how far its imagined end is from the goal, in latent space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from vjepa_ac_planner.errors import ConfigError, DeviceMemoryError, InputError, PlanningError

T = TypeVar("T")

Scorer = Callable[[Tensor], Tensor]
"""Action sequences [K, H, 7] -> energies [K]; less is better."""

EnergyOver = Literal["final", "mean"]


class RolloutModel(Protocol):
    """The part of the world model that the energy needs."""

    def rollout(self, z0: Tensor, s0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """z0 [N, D], s0 [7], actions [K, H, 7] -> latents [K, H, N, D], states [K, H + 1, 7]."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A scorer that gives gradients in its own way."""

    def value_and_gradient(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """[K, H, 7] -> energies [K] and gradients [K, H, 7]."""
        ...


def latent_energy(z: Tensor, z_goal: Tensor) -> Tensor:
    """Mean absolute difference over tokens and channels (V-JEPA 2, section 3.2).

    Args:
        z: [..., N, D] latents, any floating dtype.
        z_goal: [..., N, D] goal latents; leading dimensions broadcast.

    Returns:
        [...] energies, float32: half-precision latents are subtracted and averaged in float32.
    """
    return (z.float() - z_goal.float()).abs().mean(dim=(-2, -1))


GRIPPER_METRES = 0.1
"""A gripper that is open instead of closed is as far off as a hand that is this far away [m]."""


def state_distance(states: Tensor, goal: Tensor) -> Tensor:
    """How far the arm is from its state at the goal [m]: the hand's distance, and the gripper's opening.

    Args:
        states: [..., 7].
        goal: [7].
    """
    off = states.float() - goal
    return torch.linalg.vector_norm(off[..., :3], dim=-1) + GRIPPER_METRES * off[..., 6].abs()


@dataclass(frozen=True)
class Evidence:
    """What the model imagines for some action sequences, step by step."""

    energies: Tensor
    """[K] the energies by which the sequences are ranked."""
    by_step: Tensor
    """[K, H] energy after each action."""
    latents: Tensor
    """[K, H, N, D] imagined latents."""
    states: Tensor
    """[K, H + 1, 7] imagined states, the current one first."""


class LatentEnergy:
    """Scores action sequences by rolling them out in latent space.

    The population is evaluated in near-equal chunks of at most ``chunk`` sequences. Unless ``chunk``
    is given, the whole population is tried first, and halved for as long as the device is out of
    memory; the size that fitted is kept in ``chunk`` for the next call.

    What does not depend on the chunk: a candidate's rollout is computed from its own actions alone, so
    chunking never mixes candidates. Whether its energy is the same to the last bit rests on the
    backend's matrix kernels summing in one order for every batch size, which none promises. On the CPU
    energies of different chunks differ by up to about 2e-8, and by 2e-7 for chunks of a single sequence
    (tests hold the elites to be the same); on a GPU by about 1e-6. Candidates that are as near as that
    may swap ranks. With the same chunk on the same device, the answer is the same.

    Args:
        world_model: rolls out ``z0 [N, D], s0 [7], actions [K, H, 7]``.
        z0: [N, D] latent of the observation.
        s0: [7] current state.
        z_goal: [N, D] latent of the goal.
        chunk: most sequences rolled out at a time; None finds it.
        energy_over: energy of the ``"final"`` latent (the paper), or the ``"mean"`` over the horizon.
        gradient_chunk: most sequences differentiated at a time; None begins with ``chunk``.
        goal_state: [7] state of the arm at the goal, where it is known.
        state_weight: energy for every metre that the arm is from it (:func:`state_distance`).

    Raises:
        InputError: z0 and z_goal differ in shape.
        DeviceMemoryError: (on call) not even one sequence fits the device.
    """

    def __init__(
        self,
        world_model: RolloutModel,
        z0: Tensor,
        s0: Tensor,
        z_goal: Tensor,
        chunk: int | None = None,
        energy_over: EnergyOver = "final",
        gradient_chunk: int | None = None,
        goal_state: Tensor | None = None,
        state_weight: float = 0.0,
    ) -> None:
        if z0.ndim != 2 or z0.shape != z_goal.shape:
            raise InputError(
                "energy: observation and goal latents must have one shape [tokens, channels], "
                f"received {tuple(z0.shape)} and {tuple(z_goal.shape)}; encode both with one model"
            )
        if chunk is not None and chunk < 1:
            raise ConfigError(f"chunk: received {chunk}, allowed 1 or more, or null to find it")
        self.world_model, self.z0, self.s0, self.z_goal = world_model, z0, s0, z_goal
        self.chunk = chunk
        self.gradient_chunk = gradient_chunk or chunk
        self.energy_over = energy_over
        self.goal_state, self.state_weight = goal_state, state_weight

    def __call__(self, actions: Tensor) -> Tensor:
        """[K, H, 7] action sequences -> [K] energies, float32, on the device of the model."""
        scores, self.chunk = _in_chunks(self._score, actions, self.chunk)
        return torch.cat(scores)

    def value_and_gradient(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [K] of action sequences [K, H, 7], and their gradients [K, H, 7].

        Each chunk is differentiated before the next is imagined: what backward needs is some ten times
        the memory, so the chunk that fits it is found apart.
        """
        parts, self.gradient_chunk = _in_chunks(
            partial(_differentiated, self._score), actions, self.gradient_chunk
        )
        energies, gradients = zip(*parts, strict=True)
        return torch.cat(energies), torch.cat(gradients)

    def evaluate(self, actions: Tensor) -> Evidence:
        """Roll out a few sequences [K, H, 7] and keep everything that was imagined."""
        parts = [
            self.world_model.rollout(self.z0, self.s0, part)
            for part in actions.split(self.chunk or len(actions))
        ]
        latents, states = (torch.cat(part) for part in zip(*parts, strict=True))
        by_step = self._of(latents, states[:, 1:])  # [K, H]
        return Evidence(self._reduce(by_step), by_step, latents, states)

    def current(self) -> Tensor:
        """[] energy of what is observed."""
        return self._of(self.z0, self.s0)

    def _score(self, actions: Tensor) -> Tensor:
        latents, states = self.world_model.rollout(self.z0, self.s0, actions)  # [k, H, N, D], [k, H + 1, 7]
        if self.energy_over == "final":
            latents, states = latents[:, -1:], states[:, -2:]
        return self._reduce(self._of(latents, states[:, 1:]))

    def _of(self, latents: Tensor, states: Tensor) -> Tensor:
        """Latents [..., N, D] and the states [..., 7] that go with them -> [...] energies."""
        energy = latent_energy(latents, self.z_goal)
        if self.goal_state is None or self.state_weight == 0.0:
            return energy
        return energy + self.state_weight * state_distance(states, self.goal_state)

    def _reduce(self, by_step: Tensor) -> Tensor:
        return by_step[:, -1] if self.energy_over == "final" else by_step.mean(dim=1)


def value_and_gradient(score: Scorer | Differentiable, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Energies [K] of action sequences [K, H, 7], and their gradients [K, H, 7].

    A scorer that has a method of this name does it itself; any other is differentiated as it stands.

    Raises:
        PlanningError: the energies do not depend on the actions in a way that can be differentiated.
    """
    if isinstance(score, Differentiable):
        return score.value_and_gradient(actions)
    return _differentiated(score, actions)


def _differentiated(score: Scorer, actions: Tensor) -> tuple[Tensor, Tensor]:
    # Each energy comes from its own actions alone: the gradient of the sum holds that of every one.
    with torch.inference_mode(False), torch.enable_grad():
        actions = actions.clone().requires_grad_()
        energies = score(actions)
        if not energies.requires_grad:
            raise PlanningError(
                "gradient: this world model's energies have no gradient; choose optimiser cem, icem or mppi"
            )
        (gradients,) = torch.autograd.grad(energies.sum(), actions)
    return energies.detach(), gradients


def _in_chunks(
    function: Callable[[Tensor], T], actions: Tensor, chunk: int | None
) -> tuple[list[T], int | None]:
    """Apply a function to the rows in chunks; returns its answers, and the chunk that fitted."""
    while True:
        parts = max(1, -(-len(actions) // (chunk or len(actions) or 1)))
        with _OutOfMemory() as memory:
            # Near-equal chunks: no odd last one, so all but one row more see the same kernels.
            return [function(part) for part in actions.tensor_split(parts)], chunk
        tried = -(-len(actions) // parts)
        if tried <= 1:
            raise DeviceMemoryError(
                f"{actions.device}: out of memory while rolling out a single action sequence "
                f"({memory.message}); free the device, shorten the horizon, or use a smaller model or a "
                "half-precision dtype"
            )
        chunk = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _OutOfMemory:
    """Swallows exactly the errors by which PyTorch reports a full device, and keeps their first line.

    On leaving, the traceback goes, and with it the frames that hold the tensors of the failed try.
    """

    message = ""

    def __enter__(self) -> _OutOfMemory:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, (RuntimeError, MemoryError)):  # torch.OutOfMemoryError is a RuntimeError
            return False
        text = str(error) or "no message"
        self.message = text.splitlines()[0]
        # The CPU allocator has no type of its own, only these words.
        words = ("out of memory", "not enough memory", "can't allocate memory")
        return isinstance(error, MemoryError) or any(word in text.lower() for word in words)
