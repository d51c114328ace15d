"""What a world model is worth, on held-out episodes: probe, prediction against baselines, ranking."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, latent_norm
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.statistics import spearman
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.predictor import encode_frames

_RIDGE = 1e-3
"""Penalty of the probe, relative to the mean eigenvalue of the kernel."""


def ranking(features: Tensor, positions: Tensor) -> float:
    """Mean over episodes of the rank correlation between L1 feature distance and true distance.

    The goal of each episode is its last frame and every other frame is a candidate, then its first, so
    that what is ranked is what a planner ranks: nearness to one goal in one scene.

    Args:
        features: [E, T, ...] latents, or pixels.
        positions: [E, T, 3] end-effector positions [m].

    Returns:
        -1 .. 1; NaN where no arm moves 5 cm, and so ranks nothing.
    """
    scores = []
    for episode, place in zip(features.flatten(2), positions, strict=True):
        if (place - place[0]).norm(dim=-1).max() < 0.05:
            continue  # an arm that stood still ranks nothing
        for goal in (0, len(place) - 1):
            others = [i for i in range(len(place)) if i != goal]
            energy = (episode[others].float() - episode[goal].float()).abs().mean(dim=-1)
            distance = (place[others] - place[goal]).norm(dim=-1)
            value = spearman(energy.cpu(), distance.cpu())
            scores.append(0.0 if math.isnan(value) else value)  # latents that are all alike rank nothing
    return sum(scores) / len(scores) if scores else math.nan


def probe_error(features: Tensor, positions: Tensor, train_episodes: int) -> float:
    """Median error [m] of a linear (ridge) read-out of position, fitted on the first episodes.

    Args:
        features: [E, T, ...].
        positions: [E, T, 3] [m].
        train_episodes: episodes to fit on, of E at least 1 and less than all; the error is of the others.
    """
    x, y = features.flatten(2).float(), positions.float()
    fit, test = x[:train_episodes].flatten(0, 1), x[train_episodes:].flatten(0, 1)
    mean, offset = fit.mean(dim=0), y[:train_episodes].flatten(0, 1).mean(dim=0)
    fit, test = fit - mean, test - mean
    kernel = fit @ fit.T  # the dual: fewer frames than features
    kernel.diagonal().add_(_RIDGE * kernel.diagonal().mean())
    weights = torch.linalg.solve(kernel.double(), (y[:train_episodes].flatten(0, 1) - offset).double())
    guess = (test @ fit.T).double() @ weights + offset
    return float((guess - y[train_episodes:].flatten(0, 1)).norm(dim=-1).median())


@torch.no_grad()
def prediction_errors(
    predictor: ActionConditionedPredictor,
    latents: Tensor,
    data: PlayData,
    *,
    clips: int = 256,
    steps: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """L1 of one step and of a rollout with predicted states, against copying and wrong actions.

    Args:
        predictor: under test.
        latents: [E, T, N, D].
        data: the same episodes.
        clips: how many clips to draw.
        steps: length of the rollout.
        seed: of the clips and of the shuffling.

    Returns:
        ``one_step``, ``copy`` (the latent stays as it is), ``shuffled`` (actions of other clips), the
        same with ``_rollout`` for the last step of the rollout.
    """
    predictor.eval()
    generator = torch.Generator().manual_seed(seed)
    batch = data.windows(clips, steps + 1, generator, source=latents)
    z = batch.images.float()
    other = torch.roll(batch.actions, 1, dims=0)

    def rollout(actions: Tensor) -> Tensor:
        cache, state, current = predictor.start_rollout(steps), batch.states[:, 0], z[:, 0]
        following = []
        for step in range(steps):
            current = latent_norm(predictor.forward_step(current, state, actions[:, step], cache))
            state = geometry.step(state, actions[:, step])
            following.append(current)
        return torch.stack(following, dim=1)

    def error(imagined: Tensor) -> tuple[float, float]:
        gap = (imagined - z[:, 1:]).abs().mean(dim=(0, 2, 3))
        return float(gap[0]), float(gap[-1])

    result = {}
    for name, imagined in (
        ("one_step", rollout(batch.actions)),
        ("shuffled", rollout(other)),
        ("copy", z[:, :1].expand_as(z[:, 1:])),
    ):
        first, last = error(imagined)
        result[name] = first
        result["rollout" if name == "one_step" else f"{name}_rollout"] = last
    predictor.train()
    return result


def encoder_figures(encoder: FrameEncoder, data: PlayData) -> tuple[dict[str, float], Tensor]:
    """Ranking and probe error of an encoder's latents on held-out episodes, and the latents.

    What cannot be told is left out: ``ranking`` where no arm moves far enough, ``probe_m`` of one episode.
    """
    latents = encode_frames(encoder, data)
    encoder.train()
    positions = data.states[..., :3]
    figures = ranking_figures(latents, positions)
    if len(data) > 1:
        figures["probe_m"] = probe_error(latents, positions, len(data) // 2)
    return figures, latents


def ranking_figures(features: Tensor, positions: Tensor, name: str = "ranking") -> dict[str, float]:
    """:func:`ranking` by its name, or nothing where it cannot be told."""
    value = ranking(features, positions)
    return {} if math.isnan(value) else {name: value}


def baseline_figures(encoder: FrameEncoder, data: PlayData) -> dict[str, float]:
    """Ranking of raw pixels and of ``encoder``, which the caller made at random; see above."""
    pixels = preprocess(data.images.flatten(0, 1), encoder.config.image_size)
    pixels = pixels.to(torch.float16).unflatten(0, data.images.shape[:2])
    random, _ = encoder_figures(encoder, data)
    return {
        **ranking_figures(pixels, data.states[..., :3], "ranking_pixels"),
        **{f"{name}_random_encoder": value for name, value in random.items()},
    }
