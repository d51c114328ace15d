"""Light: the same for all frames of a scene, another for every scene, and nothing at all for 0."""

from __future__ import annotations

import torch

from vjepa_ac_planner.training.augment import vary_light


def test_light_varies_between_groups_and_over_the_image_and_not_within_a_group() -> None:
    images = torch.full((6, 3, 12, 12, 3), 120, dtype=torch.uint8)
    varied = vary_light(images, 0.5, torch.Generator().manual_seed(0))
    assert varied.dtype == torch.uint8 and varied.shape == images.shape
    assert (varied == varied[:, :1]).all()
    assert varied[:, 0, 0, 0].float().std(dim=0).min() > 2
    assert (varied[:, 0].flatten(1, 2).float().std(dim=1) > 2).all()
    assert vary_light(images, 0.0, torch.Generator()) is images


def test_values_stay_in_range_and_change_no_more_than_asked() -> None:
    images = torch.randint(0, 256, (40, 2, 8, 8, 3), generator=torch.Generator().manual_seed(1))
    varied = vary_light(images.to(torch.uint8), 0.2, torch.Generator().manual_seed(0))
    change = varied.float() - images
    assert change.abs().max() <= 255 * (1.1 * 1.2 - 1) + 0.2 * 51 + 1
    assert change.abs().mean() > 3
