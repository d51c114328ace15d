"""The losses of V-JEPA 2-AC, and the one that aligns a small encoder's latents with motion."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, latent_norm


class PredictionLoss(NamedTuple):
    """Mean L1 of predicted against true latents (V-JEPA 2, section 3.1)."""

    teacher_forcing: Tensor
    rollout: Tensor

    @property
    def total(self) -> Tensor:
        """The sum that is minimised."""
        return self.teacher_forcing + self.rollout


def prediction_loss(
    predictor: ActionConditionedPredictor,
    z: Tensor,
    states: Tensor,
    actions: Tensor,
    rollout_steps: int = 2,
) -> PredictionLoss:
    """Teacher forcing over the whole clip, plus a rollout of ``rollout_steps`` from its first frame.

    The rollout starts from the teacher-forced prediction of the second frame and feeds predictions
    back; the states are the recorded ones, as in the reference.

    Args:
        predictor: any predictor of [B, T, N, D] latents.
        z: [B, T, N, D] normalised latents, T >= rollout_steps + 1.
        states: [B, T, 7].
        actions: [B, T - 1, 7].
        rollout_steps: length of the rollout.
    """
    forced = latent_norm(predictor(z[:, :-1], states[:, :-1], actions))  # [B, T-1, N, D]
    imagined = torch.cat([z[:, :1], forced[:, :1]], dim=1)
    for step in range(1, rollout_steps):
        seen = slice(0, step + 1)
        following = latent_norm(predictor(imagined, states[:, seen], actions[:, seen]))[:, -1:]
        imagined = torch.cat([imagined, following], dim=1)
    return PredictionLoss(
        (forced - z[:, 1:]).abs().mean(),
        (imagined[:, 1:] - z[:, 1 : rollout_steps + 1]).abs().mean(),
    )


def motion_loss(z: Tensor, motion: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error between how latents of one scene differ and a linear function of the robot's motion.

    One matrix for all scenes and states makes equal motions change the latent equally wherever they
    start, so that latent distance grows with the true distance and does not saturate; and because the
    matrix has a fixed size, latents cannot meet it by standing still.

    Args:
        z: [E, F, N, D] latents of F frames of each of E episodes.
        motion: [E, F, A] how far the robot had moved since the first of them, scaled to about unit size.
        directions: [A, N, D], the effect of motion on every channel.

    Returns:
        The mean squared error, and its share of the mean square that was asked for: 1 when the
        latents do not follow the motion at all, 0 when they do exactly.
    """
    expected = torch.einsum("efa,and->efnd", motion - motion.mean(dim=1, keepdim=True), directions)
    error = (z - z.mean(dim=1, keepdim=True) - expected).square().mean()
    return error, error.detach() / expected.detach().square().mean().clamp(min=1e-12)
