"""Stage 2: align the encoder's latents with the robot's own motion, so that distance follows distance.

A young mask-denoising encoder tells scenes apart, but the L1 distance of its latents ranks nearness to
a goal no better than raw pixels do. This stage needs no labels, only the states that the robot itself
recorded while it played. Frames of one episode show one scene, so their latents are asked to differ by
a linear function of how the robot moved between them: the same function everywhere, learned, of a
fixed gain. The fixed gain also forbids collapse, so no moving-average target is needed.

The encoder is frozen afterwards. It may also start from a finished model, to learn further looks or
another weighing of the motions: the directions are then fitted to that model's latents first. Or, for a
view that the model does not know, they are what its own predictor makes of the motions, and stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vjepa_ac_planner import geometry
from vjepa_ac_planner.config import check_range, to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.nn.predictor import latent_norm
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.augment import vary_light
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.growing import load_grown
from vjepa_ac_planner.training.loop import LoopConfig, WholeEngine, load_modules, optimise
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
    directions: Literal["learned", "predictor"] = "learned"
    """Which way a motion changes the latents: ``learned`` with the encoder, or as the ``predictor`` of the
    model that it goes on from expects; those are fixed, and gain and gripper_share say nothing."""
    gain: float = 0.4
    """Change of every channel for a motion of unit size along its own direction."""
    vary_light: float = 0.0
    """How much exposure, contrast and white balance are varied from episode to episode, 0 .. 1."""
    start_from: str | None = None
    """Model to go on from (name or folder), as deep or less deep; None starts from stage 1."""
    pretrained: bool = True
    """Whether to start from stage 1 where no model is named; from chance otherwise."""
    evaluate_every: int = 200

    @property
    def needs_first_stage(self) -> bool:
        """Whether it starts from stage 1."""
        return self.pretrained and self.start_from is None

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 1, 4096)
        check_range("frames", self.frames, 2, 1024)
        check_range("gain", self.gain, 0.01, 2.0)
        check_range("gripper_share", self.gripper_share, 0.0, 0.9)
        check_range("vary_light", self.vary_light, 0.0, 1.0)
        for value in self.motion_scale:
            check_range("motion_scale", value, 0.0, 1000.0)
        if self.directions == "predictor" and self.start_from is None:
            raise ConfigError(
                "directions: received 'predictor' without start_from, the model whose predictor it is"
            )


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


class ExpectedDirections(nn.Module):
    """The directions that a model's predictor expects, [7, N, D], which are not trained.

    A predictor knows what motions do to the latents of the views that it was trained on, and says much the
    same of a view that it has never seen. Latents that are made to move so are latents that it understands.

    Args:
        model: whose predictor is asked.
        data: frames, states and motions to ask it about.
        config: how motions are scaled.
        seed: of the frames.
        frames: how many.
    """

    values: Tensor

    @torch.no_grad()
    def __init__(
        self, model: WorldModel, data: PlayData, config: AlignmentTraining, seed: int, frames: int = 400
    ) -> None:
        super().__init__()
        clips = data.windows(frames, 2, torch.Generator().manual_seed(seed))
        answers = []
        for images, states, actions in zip(
            clips.images[:, 0].split(64),
            clips.states[:, :1].split(64),
            clips.actions.split(64),
            strict=True,
        ):
            z = model.encode(images)[:, None]
            moved, stood = (
                latent_norm(model.predictor(z, states, motion))[:, 0]
                for motion in (actions, torch.zeros_like(actions))
            )
            answers.append(moved - stood)
        motion = clips.actions[:, 0] * torch.tensor(config.motion_scale)
        # An axis that the play hardly turned about: there is no telling what it does.
        motion = motion * (clips.actions[:, 0].std(dim=0) > 5e-3)
        answer = torch.cat(answers)
        fitted = _least_squares(motion, answer.flatten(1)).view(7, *answer.shape[1:])
        self.register_buffer("values", fitted)

    def forward(self) -> Tensor:
        """[7, N, D]."""
        return self.values


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """[7, M] that make ``x @ result`` nearest to y [n, M]; zero for columns of x [n, 7] that are zero."""
    gram = (x.T @ x).double()
    # An axis that never moved (roll, pitch) has nothing to fit: the ridge keeps it finite.
    ridge = 1e-6 * torch.eye(len(gram), dtype=torch.float64) * gram.diagonal().max()
    return torch.linalg.solve(gram + ridge, (x.T @ y).double()).float()


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
    fitted = _least_squares(x, y).view_as(directions.raw)
    moved = x.std(dim=0) > 1e-2
    share = fitted.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    directions.raw.copy_(torch.where(moved[:, None, None], fitted / share, directions.raw))


class AlignmentStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: AlignmentTraining, data: PlayData, start: dict[str, Tensor] | None) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.data = config, data
        self.encoder = FrameEncoder(config.encoder)
        learned = MotionDirections(config)
        self.directions: nn.Module = learned
        if config.start_from is not None:
            model = WorldModel.load(config.start_from, device="cpu", dtype="float32")
            load_grown(self.encoder, model.encoder.state_dict())
            if config.directions == "predictor":
                self.directions = ExpectedDirections(model, data, config, config.loop.seed)
            else:
                _fit_directions(learned, self.encoder, data, config.loop.seed)
        elif start is not None:
            self.encoder.vit.load_state_dict(start)
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
    about: Mapping[str, str] | None = None,
) -> None:
    """Run stage 2 from the encoder of stage 1 (or from chance for None); resumes where it stopped.

    Args:
        config: of the stage.
        data: to train on.
        start: see above.
        folder: of the run.
        evaluate: figures of the encoder on held-out data.
        about: what must agree beside the configuration for a run to go on.

    Raises:
        CheckpointError: the folder holds another run.
    """
    stage = AlignmentStage(config, data, start)
    optimise(
        stage,
        config.loop,
        folder,
        {**to_mapping(config), **(about or {})},
        WholeEngine(),
        evaluate=(lambda: evaluate(stage.encoder)) if evaluate else None,
        evaluate_every=config.evaluate_every,
    )


def aligned_encoder(folder: Path) -> dict[str, Tensor]:
    """State dict of stage 2's :class:`FrameEncoder`."""
    return load_modules(folder / "state.pt")["encoder"]
