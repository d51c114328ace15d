"""The losses of V-JEPA 2-AC, and those that shape a small encoder's latents. All are means.

Latents ``z`` are [B, T, N, D] and normalised; ``states`` are [B, T, 7] and ``actions`` [B, T - 1, 7].
"""

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


def variance_loss(deviations: Tensor, floor: float) -> Tensor:
    """Hinge that keeps every latent channel moving: mean of ``floor - std`` where std is below it.

    Args:
        deviations: [S, N, D] latents minus the mean of their own episode, so that what counts is
            what changes while the robot moves and not what tells scenes apart.
        floor: standard deviation asked for, of a channel whose mean square is 1 by normalisation.
    """
    std = (deviations.square().mean(dim=0) + 1e-6).sqrt()  # [N, D]
    return torch.relu(floor - std).mean()


def covariance_loss(deviations: Tensor) -> Tensor:
    """Mean squared correlation between different channels: keeps a latent from repeating one number.

    Args:
        deviations: [S, N, D] latents minus the mean of their own episode.
    """
    samples = deviations.flatten(0, 1)  # [S * N, D]
    covariance = samples.T @ samples / len(samples)
    scale = covariance.diagonal().clamp(min=1e-6).rsqrt()
    correlation = covariance * scale[:, None] * scale[None, :]
    channels = len(correlation)
    return (correlation.square().sum() - channels) / (channels * (channels - 1))


def straightness_loss(z: Tensor, actions: Tensor, effect: Tensor) -> Tensor:
    """L1 between the change of a latent over one step and a linear function of the action.

    One matrix for all states makes equal motions change the latent equally wherever they start, so
    that the latent's L1 distance grows with the true distance instead of saturating.

    Args:
        z: [B, T, N, D].
        actions: [B, T - 1, A], scaled to about unit size.
        effect: [A, N, D], learned.
    """
    expected = torch.einsum("bta,and->btnd", actions, effect)
    return (z[:, 1:] - z[:, :-1] - expected).abs().mean()
