"""What a camera and lamps may change about a picture without anything having moved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIELD = 3
"""Rows and columns of random colours between which an image is shaded smoothly."""


def vary_light(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Another exposure and another, uneven tint for every group of frames, the same within a group.

    Args:
        images: [G, F, H, W, 3] uint8 RGB; F frames of each group show one scene.
        amount: largest relative change of a colour at any place; brightness shifts by up to a fifth of
            it as well. 0 gives the images back.
        generator: source of chance, on the CPU.

    Returns:
        [G, F, H, W, 3] uint8.
    """
    if amount == 0.0:
        return images

    def uniform(*shape: int) -> Tensor:
        return 2.0 * torch.rand(len(images), *shape, generator=generator) - 1.0

    field = (1.0 + 0.5 * amount * uniform(1, 1, 1)) * (1.0 + amount * uniform(3, FIELD, FIELD))
    gain = F.interpolate(field, images.shape[2:4], mode="bilinear", align_corners=True)
    gain = gain.permute(0, 2, 3, 1).unsqueeze(1)  # [G, 1, H, W, 3]
    shift = 51.0 * amount * uniform(1, 1, 1, 1)
    return (gain * images.float() + shift).round().clamp(0, 255).to(torch.uint8)
