"""What an energy sees of a grasp, with pixels for latents and a model that imagines nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vjepa_ac_planner.sim.contrast import grasp_contrast
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig


class Pixels:
    """Latents are pixels; nothing that is done changes them."""

    def encode(self, frames: list[Any]) -> torch.Tensor:
        images = np.stack([frame.image for frame in frames])
        return torch.from_numpy(images).flatten(1, 2).float() / 255

    def rollout(
        self, z0: torch.Tensor, s0: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.action = actions[1, 0, 6].item()
        return z0.expand(len(actions), 1, -1, -1), s0.expand(len(actions), 2, -1)


def test_pixels_see_fingers_and_offsets_and_no_future() -> None:
    model: Any = Pixels()
    with PandaSim(SimConfig(width=96, height=96, faces=4000, shadow_size=0)) as sim:
        seen = grasp_contrast(model, sim, [60_000], strength=0.5)
    assert 0.2 < model.action < 0.5  # the fingers stop at the object
    assert min(seen["fingers"], seen["air"], seen["offset"]) > 1e-4
    assert seen["closing"] == seen["staying"] and seen["closes"] == 0.0
