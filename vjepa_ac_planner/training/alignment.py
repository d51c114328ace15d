"""Stage 2: align the encoder's latents with the robot's own motion, so that distance follows distance.

A young mask-denoising encoder tells scenes apart, but the L1 distance of its latents ranks nearness to
a goal no better than raw pixels do. This stage needs no labels, only the states that the robot itself
recorded while it played. Frames of one episode show one scene, so their latents are asked to differ by
a linear function of how the robot moved between them: the same function everywhere, learned, of a
fixed gain. The fixed gain also forbids collapse, so no moving-average target is needed.

The encoder is frozen afterwards. It may also start from a finished model, to learn further looks or
another weighing of the motions: the directions are then fitted to that model's latents first.
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
from vjepa_ac_planner.training.augment import vary_light
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.loop import LoopConfig, load_modules, optimise
from vjepa_ac_planner.training.losses import motion_loss
from vjepa_ac_planner.training.scaling import Scales
from vjepa_ac_planner.world_model import WorldModel


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
    """What motions are multiplied by, to be of about unit size; 0 leaves one out."""
    gripper_share: float = 0.0
    """Share of the channels that follow the gripper alone; 0 lets every channel follow everything."""
    gain: float = 0.4
    """Change of every channel for a motion of unit size along its own direction."""
    vary_light: float = 0.0
    """How much exposure, contrast and white balance are varied from episode to episode, 0 .. 1."""
    start_from: str | None = None
    """Model to go on from (name or folder); None starts from stage 1."""
    evaluate_every: int = 200

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 1, 4096)
        check_range("frames", self.frames, 2, 1024)
        check_range("gain", self.gain, 0.01, 2.0)
        check_range("gripper_share", self.gripper_share, 0.0, 0.9)
        check_range("vary_light", self.vary_light, 0.0, 1.0)
        for value in self.motion_scale:
            check_range("motion_scale", value, 0.0, 1000.0)


class MotionDirections(nn.Module):
    """For every channel of every token the direction of motion that it follows, with a fixed gain.

    With a share of channels for the gripper these follow it alone, and the others the arm alone. So the
    L1 distance is the sum of one for the arm and one for the fingers, and fingers that are not yet where
    they should be do not drown a small offset of the arm, as they would under one root of squares.
    """

    allowed: Tensor

    def __init__(self, config: AlignmentTraining) -> None:
        super().__init__()
        tokens, dim = config.encoder.tokens, config.encoder.dim
        self.gain = config.gain
        self.raw = nn.Parameter(torch.randn(7, tokens, dim))
        allowed = torch.ones(7, 1, dim)
        allowed[torch.tensor(config.motion_scale) == 0] = 0.0
        grip = round(config.gripper_share * dim)
        if grip:
            allowed[:6, :, dim - grip :] = 0.0
            allowed[6, :, : dim - grip] = 0.0
        self.register_buffer("allowed", allowed, persistent=False)

    def forward(self) -> Tensor:
        """[7, N, D]; of length ``gain`` along the first axis."""
        return self.gain * nn.functional.normalize(self.raw * self.allowed, dim=0)


@torch.no_grad()
def _fit_directions(
    directions: MotionDirections, encoder: FrameEncoder, data: PlayData, seed: int, episodes: int = 100
) -> None:
    """Start from how an encoder's latents follow the motion already: a least-squares fit, in place.

    Every axis gets an equal share over all channels, so that raising the scale of one makes latents
    follow it more, not start anew.
    """
    encoder.eval()
    generator = torch.Generator().manual_seed(seed)
    batch = data.windows(min(episodes, len(data)), 1, generator, per_episode=4)
    z = torch.cat(
        [encoder(preprocess(part, encoder.config.image_size)) for part in batch.images[:, 0].split(64)]
    ).unflatten(0, (-1, 4))
    states = batch.states[:, 0].unflatten(0, (-1, 4))
    motion = geometry.diff(states[:, :1].expand_as(states), states)
    x = (motion - motion.mean(dim=1, keepdim=True)).flatten(0, 1)  # [n, 7]
    y = (z - z.mean(dim=1, keepdim=True)).flatten(0, 1).flatten(1)  # [n, N * D]
    gram = (x.T @ x).double()
    # An axis that never moved (roll, pitch) has nothing to fit: the ridge keeps it finite.
    ridge = 1e-6 * torch.eye(len(gram), dtype=torch.float64) * gram.diagonal().max()
    fitted = torch.linalg.solve(gram + ridge, (x.T @ y).double()).float().view_as(directions.raw)
    moved = x.std(dim=0) > 1e-2
    share = fitted.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    directions.raw.copy_(torch.where(moved[:, None, None], fitted / share, directions.raw))


class AlignmentStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: AlignmentTraining, data: PlayData, start: dict[str, Tensor] | None) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.data = config, data
        self.encoder = FrameEncoder(config.encoder)
        if config.start_from is not None:
            model = WorldModel.load(config.start_from, device="cpu", dtype="float32")
            self.encoder.load_state_dict(model.encoder.state_dict())
        elif start is not None:
            self.encoder.vit.load_state_dict(start)
        self.directions = MotionDirections(config)
        if config.start_from is not None:
            _fit_directions(self.directions, self.encoder, data, config.loop.seed)
        self.encoder.requires_grad_(True).train()
        self.modules = {"encoder": self.encoder, "directions": self.directions}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the linear effect of motion."""
        config = self.config
        batch = self.data.windows(config.episodes, 1, generator, per_episode=config.frames)
        images = batch.images.unflatten(0, (config.episodes, config.frames)).squeeze(2)
        images = vary_light(images, config.vary_light, generator).flatten(0, 1)
        pixels = preprocess(images, config.encoder.image_size)
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
