"""Losses: the reference's numbers, and what the shaping losses ask for."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.training.losses import (
    covariance_loss,
    prediction_loss,
    straightness_loss,
    variance_loss,
)


def test_prediction_loss_equals_the_reference(golden, mini_model) -> None:
    z = torch.from_numpy(golden["loss_h"]).unflatten(1, (4, 16))
    states, actions = (torch.from_numpy(golden[f"loss_{name}"]) for name in ("states", "actions"))

    with torch.no_grad():
        loss = prediction_loss(mini_model.predictor, z, states, actions, rollout_steps=2)

    assert loss.teacher_forcing.item() == pytest.approx(float(golden["loss_tf"]), abs=1e-5)
    assert loss.rollout.item() == pytest.approx(float(golden["loss_ar"]), abs=1e-5)


def test_variance_loss_sees_a_channel_that_stands_still() -> None:
    moving = torch.randn(512, 4, 8, generator=torch.Generator().manual_seed(0))
    assert variance_loss(moving, floor=0.5) == 0
    moving[..., 3] = 0
    assert variance_loss(moving, floor=0.5).item() == pytest.approx(0.5 / 8, rel=0.01)


def test_covariance_loss_tells_repeated_channels_from_different_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    different = torch.randn(4096, 1, 8, generator=generator)
    repeated = torch.randn(4096, 1, 1, generator=generator).expand(-1, -1, 8)
    assert covariance_loss(different) < 0.01
    assert covariance_loss(repeated).item() == pytest.approx(1.0, abs=1e-3)


def test_straightness_loss_is_zero_for_latents_linear_in_the_motion() -> None:
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(5, 3, 7, generator=generator)
    effect = torch.randn(7, 4, 8, generator=generator)
    places = torch.cat([torch.zeros(5, 1, 7), actions.cumsum(dim=1)], dim=1)
    z = torch.einsum("bta,and->btnd", places, effect)
    assert straightness_loss(z, actions, effect) < 1e-5
    assert straightness_loss(z, actions, -effect) > 1
