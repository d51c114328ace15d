"""Stage 2: align the encoder's latents with the robot's own motion, so that distance follows distance.

A young mask-denoising encoder tells scenes apart, but the L1 distance of its latents ranks nearness to
a goal no better than raw pixels do. This stage needs no labels, only the states that the robot itself
recorded while it played. Frames of one episode show one scene, so their latents are asked to differ by
a linear function of how the robot moved between them: the same function everywhere, learned, of a
fixed gain. The fixed gain also forbids collapse, so no moving-average target is needed.

The encoder is frozen afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vjepa_ac_planner import geometry
from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.loop import LoopConfig, load_modules, optimise
from vjepa_ac_planner.training.losses import motion_loss
from vjepa_ac_planner.training.scaling import Scales


@dataclass(frozen=True)
class AlignmentTraining:
    """The configuration of stage 2.

    Raises:
        ConfigError: a value is out of range.
    """

    encoder: EncoderConfig
    loop: LoopConfig = field(default_factory=LoopConfig)
    episodes: int = 12
    """Episodes in a batch."""
    frames: int = 4
    """Frames drawn from each episode; what differs between them is how the robot moved."""
    motion_scale: Scales = (10.0, 10.0, 10.0, 2.0, 2.0, 2.0, 1.0)
    """What motions are multiplied by, to be of about unit size."""
    gain: float = 0.4
    """Change of every channel for a motion of unit size along its own direction."""
    evaluate_every: int = 200

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 1, 4096)
        check_range("frames", self.frames, 2, 1024)
        check_range("gain", self.gain, 0.01, 2.0)
        for value in self.motion_scale:
            check_range("motion_scale", value, 0.0, 1000.0)


class MotionDirections(nn.Module):
    """For every channel of every token the direction of motion that it follows, with a fixed gain."""

    def __init__(self, tokens: int, dim: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.raw = nn.Parameter(torch.randn(7, tokens, dim))

    def forward(self) -> Tensor:
        """[7, N, D]; of length ``gain`` along the first axis."""
        return self.gain * nn.functional.normalize(self.raw, dim=0)


class AlignmentStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: AlignmentTraining, data: PlayData, start: dict[str, Tensor] | None) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.data = config, data
        self.encoder = FrameEncoder(config.encoder)
        if start is not None:
            self.encoder.vit.load_state_dict(start)
        self.directions = MotionDirections(config.encoder.tokens, config.encoder.dim, config.gain)
        self.modules = {"encoder": self.encoder, "directions": self.directions}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the linear effect of motion."""
        config = self.config
        batch = self.data.windows(config.episodes, 1, generator, per_episode=config.frames)
        pixels = preprocess(batch.images.flatten(0, 1), config.encoder.image_size)
        z = self.encoder(pixels).unflatten(0, (config.episodes, config.frames))  # [E, F, N, D]
        states = batch.states.unflatten(0, (config.episodes, config.frames)).squeeze(2)  # [E, F, 7]
        motion = geometry.diff(states[:, :1].expand_as(states), states)
        motion = motion * torch.tensor(config.motion_scale)
        loss, unexplained = motion_loss(z, motion, self.directions())
        return loss, {"unexplained": unexplained}

    def after_step(self, progress: float) -> None:
        """Nothing to do: there is no moving average here."""


def train_alignment(
    config: AlignmentTraining,
    data: PlayData,
    start: dict[str, Tensor] | None,
    folder: Path,
    evaluate: Callable[[FrameEncoder], dict[str, float]] | None = None,
) -> None:
    """Run stage 2 from the encoder of stage 1 (or from chance for None); resumes where it stopped."""
    stage = AlignmentStage(config, data, start)
    optimise(
        stage,
        config.loop,
        folder,
        config,
        evaluate=(lambda: evaluate(stage.encoder)) if evaluate else None,
        evaluate_every=config.evaluate_every,
    )


def aligned_encoder(folder: Path) -> dict[str, Tensor]:
    """State dict of stage 2's :class:`FrameEncoder`."""
    return load_modules(folder / "state.pt")["encoder"]
