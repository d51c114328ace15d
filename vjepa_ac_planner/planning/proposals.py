"""Where to search: bounds per group of the action, and the Gaussian that candidates are drawn from.

Everything works on full actions ``[..., 7]``. An axis that is not searched has mean, deviation and
bounds 0, so it stays exactly 0 without a special case anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import ACTION_DIM

Axes = Literal["xyz", "pose", "gripper", "xyz+gripper", "all"]
_SEARCHED: dict[str, tuple[int, ...]] = {
    "xyz": (0, 1, 2),
    "pose": (0, 1, 2, 3, 4, 5),
    "gripper": (6,),
    "xyz+gripper": (0, 1, 2, 6),
    "all": (0, 1, 2, 3, 4, 5, 6),
}
GripperSearch = Literal["with", "without", "only"]
"""Whether one plan searches the gripper together with the axes of the arm, not at all, or alone."""
_OF_THE_ARM: dict[Axes, Axes] = {"xyz+gripper": "xyz", "all": "pose", "gripper": "xyz"}
_WITH_THE_GRIPPER: dict[Axes, Axes] = {"xyz": "xyz+gripper", "pose": "all", "gripper": "xyz+gripper"}


@dataclass(frozen=True)
class SearchConfig:
    """Which axes of an action are searched, and how far each may go in one step."""

    axes: Axes = "xyz+gripper"
    """Searched axes; the others stay 0. The paper keeps the rotation fixed: ``xyz+gripper``."""
    xyz: float = 0.05
    """Bound of the translation of one step [m] (``maxnorm`` in the reference)."""
    xyz_shape: Literal["box", "l1", "l2"] = "box"
    """Whether ``xyz`` bounds each axis (the reference does), or the L1 or L2 norm; candidates outside
    a ball are shortened and keep their direction."""
    rotation: float = 0.15
    """Bound of each Euler angle of one step [rad], used only when ``axes`` is ``all``."""
    gripper: float = 0.75
    """Bound of the change of closedness in one step."""
    gripper_std: float = 1.0
    """Initial standard deviation of the gripper; of xyz and rotation it is their bound."""
    gripper_dead_zone: float = 0.25
    """Gripper entries of the answer smaller than this are set to 0."""
    dead_zone_in_search: bool = False
    """Score candidates with the dead zone applied, as they would be executed; the reference does not."""
    stay_in_workspace: bool = False
    """Shorten translations so that imagined positions stay in the model's trained workspace."""

    def __post_init__(self) -> None:
        check_range("xyz", self.xyz, 1e-4, 0.5, "m")
        check_range("rotation", self.rotation, 1e-4, 1.0, "rad")
        check_range("gripper", self.gripper, 1e-3, 1.0)
        check_range("gripper_std", self.gripper_std, 1e-3, 10.0)
        check_range("gripper_dead_zone", self.gripper_dead_zone, 0.0, 1.0)


def with_gripper(config: SearchConfig, gripper: GripperSearch | None) -> SearchConfig:
    """The same search with, without, or of only the gripper; None leaves it as it is."""
    axes: Axes = config.axes
    if gripper == "only":
        axes = "gripper"
    elif gripper == "with":
        axes = _WITH_THE_GRIPPER.get(axes, axes)
    elif gripper == "without":
        axes = _OF_THE_ARM.get(axes, axes)
    return replace(config, axes=axes)


class ActionSpace:
    """The search space of one plan, on the device of the model.

    Args:
        config: axes and bounds.
        horizon: number of actions H in a sequence.
        device: where candidates live and are scored.
        start: [3] current position [m], needed with ``workspace``.
        workspace: [2, 3] lowest and highest position [m], or None for no clamp.
    """

    def __init__(
        self,
        config: SearchConfig,
        horizon: int,
        device: torch.device | str = "cpu",
        start: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> None:
        if workspace is not None and start is None:
            raise InputError("search: a workspace clamp needs the current position, received none")
        self.config, self.horizon, self.device = config, horizon, torch.device(device)
        self.axes = _SEARCHED[config.axes]
        self._start, self._workspace = start, workspace
        searched = torch.zeros(ACTION_DIM)
        searched[list(self.axes)] = 1.0
        self.bound = (searched * _per_axis(config.xyz, config.rotation, config.gripper)).to(self.device)
        """[7] largest size of each entry; 0 where not searched."""
        deviation = searched * _per_axis(config.xyz, config.rotation, config.gripper_std)
        self.mean = torch.zeros(horizon, ACTION_DIM, device=self.device)
        """[H, 7] mean of the first proposal."""
        self.std = deviation.expand(horizon, ACTION_DIM).to(self.device)
        """[H, 7] standard deviation of the first proposal."""

    def draw(self, iterations: int, samples: int, generator: torch.Generator) -> Tensor:
        """All the standard normal noise of one plan, [I, K, H, 7], 0 on axes that are not searched.

        It is drawn at once, on the generator's device, and then moved: with a CPU generator the noise
        is the same on every machine and costs one transfer (10 x 800 x 2 x 4 floats are 256 kB), none
        inside the loop. Iteration i reads ``[i, :k]``, k at most K, contiguous.
        """
        shape = (iterations, samples, self.horizon, len(self.axes))
        return self.spread(torch.randn(shape, generator=generator, device=generator.device))

    def noise(
        self, iterations: int, samples: int, generator: torch.Generator, given: Tensor | None = None
    ) -> Tensor:
        """The noise of one plan [I, K, H, 7]: drawn, or ``given`` [I, K, H, A] for tests.

        Raises:
            InputError: the given one has another shape than this search needs.
        """
        if given is None:
            return self.draw(iterations, samples, generator)
        wanted = (iterations, samples, self.horizon)
        if given.ndim != 4 or tuple(given.shape[:3]) != wanted:
            raise InputError(
                f"noise: expected [iterations, samples, horizon, axes] = {wanted} and the searched axes, "
                f"received {tuple(given.shape)}"
            )
        return self.spread(given)

    def centre(self, init_mean: Tensor | None) -> Tensor:
        """[H, 7] centre of the first proposal: the one asked for, or 0."""
        return self.mean if init_mean is None else init_mean.to(self.mean)

    def spread(self, noise: Tensor) -> Tensor:
        """Noise of the searched axes [..., A] -> [..., 7], on the device of the search.

        Raises:
            InputError: the last dimension is not the number of searched axes.
        """
        if noise.shape[-1] != len(self.axes):
            raise InputError(
                f"noise: axes {self.config.axes!r} need {len(self.axes)} values per action, "
                f"received shape {tuple(noise.shape)}"
            )
        full = torch.zeros(*noise.shape[:-1], ACTION_DIM, device=self.device)
        full[..., list(self.axes)] = noise.to(self.device, torch.float32)
        return full

    def clip(self, actions: Tensor) -> Tensor:
        """Bring action sequences [..., H, 7] into the bounds."""
        actions = actions.clamp(-self.bound, self.bound)
        if self.config.xyz_shape != "box":
            order = 1 if self.config.xyz_shape == "l1" else 2
            length = torch.linalg.vector_norm(actions[..., :3], ord=order, dim=-1, keepdim=True)
            xyz = actions[..., :3] * (self.config.xyz / length.clamp(min=self.config.xyz))
            actions = torch.cat((xyz, actions[..., 3:]), dim=-1)
        if self.config.dead_zone_in_search:
            actions = self._still_gripper(actions)
        return actions if self._workspace is None else self._clip_to_workspace(actions)

    def answer(self, actions: Tensor) -> Tensor:
        """Make the optimiser's result [H, 7] an executable one: in bounds, small gripper changes 0."""
        return self._still_gripper(self.clip(actions))

    def _still_gripper(self, actions: Tensor) -> Tensor:
        """Small gripper changes 0: a model has an opinion on them where there is nothing to grasp."""
        gripper = actions[..., 6:]
        gripper = torch.where(gripper.abs() < self.config.gripper_dead_zone, 0.0, gripper)
        return torch.cat((actions[..., :6], gripper), dim=-1)

    def _clip_to_workspace(self, actions: Tensor) -> Tensor:
        """Clip the running sum of translations to the box, step after step.

        From outside the box no step leads further out, and any step back towards it is allowed.
        """
        assert self._workspace is not None and self._start is not None
        low, high = self._workspace
        position, steps = self._start, []
        for xyz in actions[..., :3].unbind(-2):
            xyz = xyz.clamp((low - position).clamp(max=0.0), (high - position).clamp(min=0.0))
            steps.append(xyz)
            position = position + xyz
        return torch.cat((torch.stack(steps, dim=-2), actions[..., 3:]), dim=-1)


def _per_axis(xyz: float, rotation: float, gripper: float) -> Tensor:
    return torch.tensor([xyz] * 3 + [rotation] * 3 + [gripper])


def coloured(noise: Tensor, exponent: float) -> Tensor:
    """White noise [..., H, A] made to vary slowly along the horizon, with a power spectrum f^-exponent.

    Every step keeps its unit variance; 0 leaves the noise as it is, and so does a horizon of 1. A linear
    map, so that noise which is given for tests is coloured as well. As in iCEM (arXiv 2008.06389), the
    constant part gets the weight of the lowest frequency, and time is taken to be periodic.
    """
    horizon = noise.shape[-2]
    if horizon == 1 or exponent == 0.0:
        return noise
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64).clamp(min=1.0 / horizon)
    kernel = torch.fft.irfft(frequency ** (-exponent / 2), n=horizon)
    kernel = kernel / kernel.norm()  # unit variance
    steps = torch.arange(horizon)
    mixing = kernel[(steps[:, None] - steps[None, :]) % horizon]  # [H, H] circulant
    return mixing.to(noise) @ noise
