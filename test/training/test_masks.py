"""Masks: every patch is either seen or imagined, and hidden ones come in blocks."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.training.masks import MaskConfig, sample_masks


def test_masks_split_the_patches() -> None:
    visible, hidden = sample_masks(MaskConfig(visible=0.4), (6, 6), 50, torch.Generator().manual_seed(0))
    assert visible.shape == (50, 14)
    assert torch.equal(
        torch.cat([visible, hidden], dim=1).sort(dim=1).values, torch.arange(36).expand(50, -1)
    )


def test_hidden_patches_lie_together_more_than_by_chance() -> None:
    def neighbours(hidden: torch.Tensor) -> float:
        picture = torch.zeros(len(hidden), 36).scatter(1, hidden, 1.0).view(-1, 6, 6)
        return float(
            (picture[:, 1:] * picture[:, :-1]).mean() + (picture[..., 1:] * picture[..., :-1]).mean()
        )

    generator = torch.Generator().manual_seed(0)
    config = MaskConfig(blocks=2, area=(0.2, 0.3), visible=0.6)
    _, blocks = sample_masks(config, (6, 6), 200, generator)
    chance = torch.rand(200, 36, generator=generator).argsort(dim=1)[:, : blocks.shape[1]]
    assert neighbours(blocks) > 1.3 * neighbours(chance)


def test_the_same_seed_draws_the_same_masks() -> None:
    draws = [sample_masks(MaskConfig(), (8, 8), 4, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(draws[0][0], draws[1][0])


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"area: received 0\.4 \.\. 0\.2, allowed are 0 < low <= high"):
        MaskConfig(area=(0.4, 0.2))
    with pytest.raises(ConfigError, match=r"visible: received 1\.5, allowed 0\.05 \.\. 0\.95"):
        MaskConfig(visible=1.5)
