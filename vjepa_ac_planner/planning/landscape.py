"""A slice through the energy: what the planner would see if it looked at every first action."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.planning.energy import Scorer
from vjepa_ac_planner.types import ACTION_DIM, ACTION_NAMES, FloatArray


@dataclass(frozen=True)
class EnergyLandscape:
    """Energies over two entries of the first action, the others held."""

    axes: tuple[str, str]
    """Names of the horizontal and the vertical axis, as in ``ACTION_NAMES``."""
    ticks: FloatArray
    """[P] values of both axes, from -span to span."""
    energies: FloatArray
    """[P, P], row i at ``ticks[i]`` of the vertical axis."""

    @property
    def lowest(self) -> tuple[float, float]:
        """Where the slice is lowest: values on the horizontal and the vertical axis."""
        row, column = np.unravel_index(np.argmin(self.energies), self.energies.shape)
        return float(self.ticks[column]), float(self.ticks[row])


@torch.no_grad()
def energy_landscape(
    score: Scorer,
    axes: tuple[str, str] = ("dx", "dy"),
    span: float = 0.075,
    points: int = 15,
    base: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> EnergyLandscape:
    """Score a grid of first actions (V-JEPA 2, figure 9).

    Args:
        score: [K, H, 7] -> [K], such as :meth:`vjepa_ac_planner.planning.planner.Planner.energy`.
        axes: the two entries that vary, from ``ACTION_NAMES``.
        span: both run from -span to span, in the entry's unit.
        points: grid points per axis; an odd number has standing still in the middle.
        base: [H, 7] actions whose other entries are kept; None is one action of zeros.
        device: where the scorer wants its actions.

    Raises:
        InputError: an axis that is not the name of an entry, or twice the same.
        ConfigError: span or points outside their range.
    """
    for axis in axes:
        if axis not in ACTION_NAMES or axes[0] == axes[1]:
            raise InputError(f"axes: expected two different of {', '.join(ACTION_NAMES)}, received {axes}")
    check_range("span", span, 1e-4, 1.0)
    check_range("points", points, 2, 201)
    base = torch.zeros(1, ACTION_DIM) if base is None else base
    ticks = torch.linspace(-span, span, points, device=device)
    actions = base.to(device, torch.float32).repeat(points * points, 1, 1)  # [P * P, H, 7]
    rows, columns = torch.meshgrid(ticks, ticks, indexing="ij")
    actions[:, 0, ACTION_NAMES.index(axes[0])] = columns.flatten()
    actions[:, 0, ACTION_NAMES.index(axes[1])] = rows.flatten()
    energies = score(actions).reshape(points, points)
    return EnergyLandscape(axes, ticks.cpu().double().numpy(), energies.cpu().double().numpy())
