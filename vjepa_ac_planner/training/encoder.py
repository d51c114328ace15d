"""Stage 1: pre-train a small encoder by mask-denoising in latent space, as V-JEPA 2 does.

The encoder sees some patches of a frame; transformers' own mask predictor imagines the latents of the
others, as a slowly moving average of the encoder (the target) makes them from the whole frame.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import latent_norm
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.loop import LoopConfig, WholeEngine, load_modules, optimise
from vjepa_ac_planner.training.masks import MaskConfig, sample_masks


@dataclass(frozen=True)
class MaskPredictorConfig:
    """Sizes of the mask predictor, which is needed for pre-training only."""

    dim: int = 96
    depth: int = 3
    heads: int = 3

    def options(self) -> dict[str, Any]:
        """As transformers names them."""
        return {
            "pred_hidden_size": self.dim,
            "pred_num_hidden_layers": self.depth,
            "pred_num_attention_heads": self.heads,
            "pred_num_mask_tokens": 1,
        }


@dataclass(frozen=True)
class EncoderTraining:
    """The configuration of stage 1.

    Raises:
        ConfigError: a value is out of range.
    """

    encoder: EncoderConfig
    predictor: MaskPredictorConfig = field(default_factory=MaskPredictorConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    batch: int = 64
    """Frames in a batch."""
    momentum: tuple[float, float] = (0.996, 1.0)
    """Share of itself that the target keeps at each step, at the start and at the end."""

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 1, 65536)
        for value in self.momentum:
            check_range("momentum", value, 0.0, 1.0)


class MaskDenoising:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise`."""

    def __init__(self, config: EncoderTraining, data: PlayData) -> None:
        from transformers import VJEPA2Model

        torch.manual_seed(config.loop.seed)
        model = VJEPA2Model(config.encoder.transformers_config(**config.predictor.options()))
        self.config, self.data = config, data
        # Any: the parts of transformers' encoder are called one by one, and nn.Module does not name them.
        self.encoder: Any = model.encoder
        self.predictor: Any = model.predictor
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.modules = {"encoder": self.encoder, "predictor": self.predictor, "target": self.target}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 between imagined and true latents of the hidden patches."""
        config = self.config
        episode = torch.randint(len(self.data), (config.batch,), generator=generator)
        step = torch.randint(self.data.length, (config.batch,), generator=generator)
        pixels = preprocess(self.data.images[episode, step], config.encoder.image_size)
        clip = pixels.unsqueeze(1).expand(-1, config.encoder.tubelet, -1, -1, -1)
        visible, hidden = sample_masks(config.masks, config.encoder.grid, config.batch, generator)

        with torch.no_grad():
            target = latent_norm(self.target(pixel_values_videos=clip).last_hidden_state)
            wanted = target.gather(1, hidden[..., None].expand(-1, -1, target.shape[-1]))
        imagined = self.predictor(self._encode_visible(clip, visible), [visible], [hidden])
        loss = (imagined.last_hidden_state - wanted).abs().mean()
        spread = target.std(dim=0).mean()  # 0 would be a collapse: every frame the same latent
        return loss, {"masked_l1": loss, "target_std": spread}

    def after_step(self, progress: float) -> None:
        """Move the target towards the encoder."""
        low, high = self.config.momentum
        keep = low + (high - low) * progress
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def _encode_visible(self, clip: Tensor, visible: Tensor) -> Tensor:
        """[B, N, D] with latents of visible patches in their places, zero elsewhere.

        transformers' encoder always sees every patch and hides them from its predictor only; training
        must hide them from the encoder too, so its layers are called on the visible tokens alone.
        """
        tokens = self.encoder.embeddings(clip)
        index = visible[..., None].expand(-1, -1, tokens.shape[-1])
        seen = tokens.gather(1, index)
        for layer in self.encoder.layer:
            seen = layer(seen, visible)[0]
        latents: Tensor = torch.zeros_like(tokens).scatter(1, index, self.encoder.layernorm(seen))
        return latents


def train_encoder(config: EncoderTraining, data: PlayData, folder: Path) -> None:
    """Run stage 1; resumes where it stopped. The result is ``folder/state.pt``."""
    optimise(MaskDenoising(config, data), config.loop, folder, config, WholeEngine())


def pretrained_encoder(folder: Path) -> dict[str, Tensor]:
    """State dict of the trained target encoder of stage 1, under transformers' names."""
    return load_modules(folder / "state.pt")["target"]
