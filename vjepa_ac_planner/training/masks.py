"""Multi-block masks for mask-denoising: which patches the encoder sees, and which it must imagine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError


@dataclass(frozen=True)
class MaskConfig:
    """Rectangles of patches that are hidden together.

    Raises:
        ConfigError: a value is out of range.
    """

    blocks: int = 3
    """Rectangles to hide; they may overlap."""
    area: tuple[float, float] = (0.15, 0.3)
    """Smallest and largest share of the frame that one rectangle covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest height / width."""
    visible: float = 0.4
    """Share of the patches that the encoder sees; the same number in each sample of a batch."""

    def __post_init__(self) -> None:
        check_range("blocks", self.blocks, 1, 64)
        check_range("visible", self.visible, 0.05, 0.95)
        for name, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ConfigError(f"{name}: received {low} .. {high}, allowed are 0 < low <= high")
        check_range("area", self.area[1], 0.0, 1.0)


def sample_masks(
    config: MaskConfig, grid: tuple[int, int], batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw masks of one size for a whole batch, so that it stays one dense tensor.

    Patches are ranked by (hidden by a rectangle, chance); the first ``visible`` share is the context,
    the rest is to be imagined. So rectangles are hidden first, and chance evens out the count.

    Args:
        config: sizes of the rectangles.
        grid: rows and columns of patches.
        batch: number of masks.
        generator: source of chance, on the CPU.

    Returns:
        [batch, V] indices of visible patches and [batch, N - V] of hidden ones, both ascending.
    """
    rows, columns = grid
    count = max(1, round(config.visible * rows * columns))

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, config.blocks, generator=generator)

    area = uniform(*config.area) * rows * columns
    aspect = torch.exp(uniform(math.log(config.aspect[0]), math.log(config.aspect[1])))
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = (uniform(0, 1) * (rows - height + 1)).floor()
    left = (uniform(0, 1) * (columns - width + 1)).floor()

    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    inside = (
        (row >= top[..., None, None])
        & (row < (top + height)[..., None, None])
        & (column >= left[..., None, None])
        & (column < (left + width)[..., None, None])
    )  # [batch, blocks, rows, columns]
    rank = inside.any(dim=1).flatten(1) + torch.rand(batch, rows * columns, generator=generator)
    order = rank.argsort(dim=1)
    return order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values
