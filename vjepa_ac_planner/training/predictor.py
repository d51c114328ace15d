"""Stage 3: the action-conditioned predictor on latents of the frozen encoder, as for V-JEPA 2-AC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.layers import Block
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.growing import load_grown
from vjepa_ac_planner.training.loop import LoopConfig, WholeEngine, load_modules, optimise
from vjepa_ac_planner.training.losses import prediction_loss
from vjepa_ac_planner.training.scaling import InputScales, scale_inputs, unfold_scales
from vjepa_ac_planner.world_model import WorldModel


@dataclass(frozen=True)
class PredictorTraining:
    """The configuration of stage 3.

    Raises:
        ConfigError: a value is out of range.
    """

    predictor: PredictorConfig
    scales: InputScales = field(default_factory=InputScales)
    loop: LoopConfig = field(default_factory=LoopConfig)
    batch: int = 64
    """Clips in a batch."""
    clip_length: int = 4
    rollout_steps: int = 2
    start_from: str | None = None
    """Model to go on from (name or folder), as deep or less deep; None starts by copying the latent."""
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 1, 65536)
        check_range("rollout_steps", self.rollout_steps, 1, 16)
        check_range("clip_length", self.clip_length, self.rollout_steps + 1, 64)


@torch.no_grad()
def encode_frames(encoder: FrameEncoder, data: PlayData) -> Tensor:
    """Latents of all frames, [E, T, N, D] in half precision (their values lie within a few units)."""
    encoder.eval()
    frames = data.images.flatten(0, 1)
    size, tokens, dim = encoder.config.image_size, encoder.config.tokens, encoder.config.dim
    latents = torch.empty(len(frames), tokens, dim, dtype=torch.float16)
    for start in range(0, len(frames), 256):
        part = slice(start, start + 256)
        latents[part] = encoder(preprocess(frames[part], size)).to(torch.float16)
    return latents.unflatten(0, data.images.shape[:2])


@torch.no_grad()
def start_from_copy(predictor: ActionConditionedPredictor) -> ActionConditionedPredictor:
    """Initialise so that the predictor begins by copying the latent, exactly, in place.

    One step changes a latent by a small part of its size, so a predictor that must first find the
    identity spends most of a short training on it. A normalised latent has mean 0 and mean square 1
    over its channels, so it passes the last LayerNorm unchanged up to the scale that is undone here.

    Args:
        predictor: freshly made; must be at least as wide as the latents.

    Raises:
        ConfigError: it is narrower, and cannot copy.
    """
    config = predictor.config
    if config.dim < config.latent_dim:
        raise ConfigError(
            f"predictor dim: received {config.dim}, allowed {config.latent_dim} (the latent's) or more, "
            "to start from a copy of the latent"
        )
    nn.init.eye_(predictor.embed.weight)
    nn.init.eye_(predictor.out.weight)
    predictor.out.weight.mul_((config.latent_dim / config.dim) ** 0.5)
    for block in predictor.blocks:
        assert isinstance(block, Block)
        nn.init.zeros_(block.attention.out.weight)
        nn.init.zeros_(block.mlp.down.weight)
    # Without an offset, the LayerNorm after it would divide out how large an action is.
    for layer in (predictor.action_embed, predictor.state_embed):
        nn.init.trunc_normal_(layer.bias, std=0.05)
    return predictor


class PredictorStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: PredictorTraining, data: PlayData, latents: Tensor) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.data, self.latents = config, data, latents
        predictor = ActionConditionedPredictor(config.predictor)
        if config.start_from is None:
            self.predictor = scale_inputs(start_from_copy(predictor), config.scales)
        else:
            model = WorldModel.load(config.start_from, device="cpu", dtype="float32")
            load_grown(predictor, model.predictor.state_dict())
            self.predictor = unfold_scales(predictor, config.scales)
        self.modules = {"predictor": self.predictor}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher forcing plus rollout."""
        config = self.config
        batch = self.data.windows(config.batch, config.clip_length, generator, source=self.latents)
        z = batch.images.float()
        loss = prediction_loss(self.predictor, z, batch.states, batch.actions, config.rollout_steps)
        copy = (z[:, 1:] - z[:, :-1]).abs().mean()
        return loss.total, {"one_step": loss.teacher_forcing, "rollout": loss.rollout, "copy": copy}

    def after_step(self, progress: float) -> None:
        """Nothing to do."""


def train_predictor(
    config: PredictorTraining,
    data: PlayData,
    encoder: FrameEncoder,
    folder: Path,
    evaluate: Callable[[PredictorStage], dict[str, float]] | None = None,
) -> None:
    """Run stage 3; resumes where it stopped. The result is ``folder/state.pt``."""
    stage = PredictorStage(config, data, encode_frames(encoder, data))
    optimise(
        stage,
        config.loop,
        folder,
        config,
        WholeEngine(),
        evaluate=(lambda: evaluate(stage)) if evaluate else None,
        evaluate_every=config.evaluate_every,
    )


def trained_predictor(config: PredictorTraining, folder: Path) -> ActionConditionedPredictor:
    """The predictor of stage 3, with its input scales still unfolded."""
    predictor = scale_inputs(ActionConditionedPredictor(config.predictor), config.scales)
    predictor.load_state_dict(load_modules(folder / "state.pt")["predictor"])
    return predictor.eval()
