"""Losses: the reference's numbers, and what the shaping losses ask for."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.training.losses import motion_loss, prediction_loss


def test_prediction_loss_equals_the_reference(golden, mini_model) -> None:
    z = torch.from_numpy(golden["loss_h"]).unflatten(1, (4, 16))
    states, actions = (torch.from_numpy(golden[f"loss_{name}"]) for name in ("states", "actions"))

    with torch.no_grad():
        loss = prediction_loss(mini_model.predictor, z, states, actions, rollout_steps=2)

    assert loss.teacher_forcing.item() == pytest.approx(float(golden["loss_tf"]), abs=1e-5)
    assert loss.rollout.item() == pytest.approx(float(golden["loss_ar"]), abs=1e-5)


def test_motion_loss_is_zero_for_latents_linear_in_the_motion() -> None:
    generator = torch.Generator().manual_seed(0)
    motion = torch.randn(5, 3, 7, generator=generator)
    directions = torch.randn(7, 4, 8, generator=generator)
    scene = torch.randn(5, 1, 4, 8, generator=generator)  # what tells scenes apart does not count
    z = scene + torch.einsum("efa,and->efnd", motion, directions)
    assert motion_loss(z, motion, directions)[1] < 1e-10
    assert motion_loss(scene.expand_as(z), motion, directions)[1].item() == pytest.approx(1.0)
    assert motion_loss(z, motion, -directions)[1] > 1
