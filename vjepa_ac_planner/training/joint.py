"""Stage 2: encoder and predictor together, so that latent distance follows true distance.

A young mask-denoising encoder tells scenes apart but its L1 distance saturates a few centimetres away,
and part of the workspace hardly moves it. This stage, which needs no labels but the robot's own
recorded actions, asks three things of the latents at once:

* the predictor can tell the next latent from the action (the loss of stage 3; gradients reach the
  encoder through inputs and targets);
* every channel of every token moves while the robot moves (a floor on the standard deviation *within*
  an episode, which also forbids collapse, so no moving-average target is needed), and channels differ;
* one step changes the latent by a linear function of the action, the same everywhere.

The encoder is frozen afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.loop import LoopConfig, load_modules, optimise
from vjepa_ac_planner.training.losses import (
    covariance_loss,
    prediction_loss,
    straightness_loss,
    variance_loss,
)
from vjepa_ac_planner.training.scaling import InputScales, scale_inputs


@dataclass(frozen=True)
class JointTraining:
    """The configuration of stage 2.

    Raises:
        ConfigError: a value is out of range.
    """

    encoder: EncoderConfig
    predictor: PredictorConfig
    scales: InputScales = field(default_factory=InputScales)
    loop: LoopConfig = field(default_factory=LoopConfig)
    episodes: int = 24
    """Episodes in a batch."""
    clips: int = 2
    """Clips of each episode: what differs between them is what the robot did."""
    clip_length: int = 3
    rollout_steps: int = 2
    floor: float = 0.6
    """Standard deviation within an episode that every channel is asked for."""
    variance: float = 2.0
    """Weight of that floor."""
    covariance: float = 1.0
    """Weight of the correlation between channels."""
    straightness: float = 1.0
    """Weight of the linear effect of actions."""
    evaluate_every: int = 250

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 2, 4096)
        check_range("clips", self.clips, 2, 64)
        check_range("clip_length", self.clip_length, self.rollout_steps + 1, 64)
        check_range("rollout_steps", self.rollout_steps, 1, 16)
        for name in ("floor", "variance", "covariance", "straightness"):
            check_range(name, getattr(self, name), 0.0, 100.0)


class ActionEffect(nn.Module):
    """One matrix from scaled action to the change of the latent: [A, N, D]."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(7, tokens, dim))


class JointStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: JointTraining, data: PlayData, start: dict[str, Tensor] | None) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.data = config, data
        self.encoder = FrameEncoder(config.encoder)
        if start is not None:
            self.encoder.vit.load_state_dict(start)
        self.predictor = scale_inputs(ActionConditionedPredictor(config.predictor), config.scales)
        self.effect = ActionEffect(config.encoder.tokens, config.encoder.dim)
        self.modules = {"encoder": self.encoder, "predictor": self.predictor, "effect": self.effect}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Prediction, variance within episodes, covariance and straightness, weighted."""
        config = self.config
        batch = self.data.windows(config.episodes, config.clip_length, generator, per_episode=config.clips)
        pixels = preprocess(batch.images.flatten(0, 1), config.encoder.image_size)
        z = self.encoder(pixels).unflatten(0, batch.images.shape[:2])  # [B, T, N, D]
        by_episode = z.unflatten(0, (config.episodes, config.clips)).flatten(1, 2)  # [E, C*T, N, D]
        deviations = (by_episode - by_episode.mean(dim=1, keepdim=True)).flatten(0, 1)

        prediction = prediction_loss(self.predictor, z, batch.states, batch.actions, config.rollout_steps)
        floor = variance_loss(deviations, config.floor)
        covariance = covariance_loss(deviations)
        scaled = batch.actions * torch.tensor(config.scales.action)
        straight = straightness_loss(z, scaled, self.effect.matrix)
        total = (
            prediction.total
            + config.variance * floor
            + config.covariance * covariance
            + config.straightness * straight
        )
        copy = (z[:, 1:] - z[:, :-1]).detach().abs().mean()
        return total, {
            "one_step": prediction.teacher_forcing,
            "rollout": prediction.rollout,
            "copy": copy,
            "straight": straight,
            "floor": floor,
            "covariance": covariance,
        }

    def after_step(self, progress: float) -> None:
        """Nothing to do: there is no moving average here."""


def train_joint(
    config: JointTraining,
    data: PlayData,
    start: dict[str, Tensor] | None,
    folder: Path,
    evaluate: Callable[[JointStage], dict[str, float]] | None = None,
) -> None:
    """Run stage 2 from the encoder of stage 1 (or from chance for None); resumes where it stopped."""
    stage = JointStage(config, data, start)
    optimise(
        stage,
        config.loop,
        folder,
        config,
        evaluate=(lambda: evaluate(stage)) if evaluate else None,
        evaluate_every=config.evaluate_every,
    )


def joint_modules(folder: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts ``encoder`` and ``predictor`` (with unfolded input scales) of stage 2."""
    return load_modules(folder / "state.pt")
