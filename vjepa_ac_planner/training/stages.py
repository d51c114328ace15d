"""The stages as commands: read what the stage before left in the run folder, train, leave the next.

A run folder holds ``encoder/``, ``alignment/`` and ``predictor/`` (a checkpoint and metrics each).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.training.alignment import aligned_encoder, train_alignment
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.encoder import pretrained_encoder, train_encoder
from vjepa_ac_planner.training.evaluate import (
    baseline_figures,
    encoder_figures,
    prediction_errors,
)
from vjepa_ac_planner.training.export import export_model
from vjepa_ac_planner.training.predictor import train_predictor, trained_predictor
from vjepa_ac_planner.training.recipe import Recipe

QUICK_EPISODES = 60
"""Held-out episodes, and clips of them, for the figures logged during training."""


def run_encoder(recipe: Recipe, data: Path, run: Path) -> None:
    """Stage 1, mask-denoising."""
    train_encoder(recipe.encoder, _play(data, recipe), run / "encoder")


def run_alignment(recipe: Recipe, data: Path, test: Path, run: Path) -> None:
    """Stage 2, from the encoder of stage 1 or of the model that the recipe names."""
    quick = PlayData.load(test, episodes=QUICK_EPISODES)
    train_alignment(
        recipe.alignment,
        _play(data, recipe),
        pretrained_encoder(run / "encoder") if recipe.alignment.needs_first_stage else None,
        run / "alignment",
        lambda encoder: encoder_figures(encoder, quick)[0],
    )


def run_predictor(recipe: Recipe, data: Path, test: Path, run: Path) -> None:
    """Stage 3, on the frozen encoder of stage 2."""
    encoder = frozen_encoder(recipe, run)
    quick = PlayData.load(test, episodes=QUICK_EPISODES)
    _, latents = encoder_figures(encoder, quick)
    train_predictor(
        recipe.predictor,
        _play(data, recipe),
        encoder,
        run / "predictor",
        lambda stage: prediction_errors(stage.predictor, latents, quick, clips=QUICK_EPISODES),
    )


def run_evaluate(recipe: Recipe, test: Path, run: Path) -> dict[str, Any]:
    """All figures on all held-out episodes, with those of stage 1, if it was run, and the baselines."""
    data = PlayData.load(test)
    encoder = frozen_encoder(recipe, run)
    result, latents = encoder_figures(encoder, data)
    predictor = trained_predictor(recipe.predictor, run / "predictor")
    errors = prediction_errors(predictor, latents, data)

    before = {}
    if recipe.frozen == "encoder" or (recipe.frozen == "alignment" and recipe.alignment.needs_first_stage):
        young = FrameEncoder(recipe.model.encoder)
        young.vit.load_state_dict(pretrained_encoder(run / "encoder"))
        after_masking, _ = encoder_figures(young, data)
        before = {f"{name}_masked_encoder": value for name, value in after_masking.items()}
    torch.manual_seed(recipe.encoder.loop.seed)
    baselines = baseline_figures(FrameEncoder(recipe.model.encoder), data)
    return {
        **result,
        **errors,
        **baselines,
        **before,
        "held_out_episodes": len(data),
    }


def run_export(
    recipe: Recipe, test: Path, run: Path, folder: Path, *, force: bool = False
) -> dict[str, Any]:
    """Evaluate, and write the model folder if the figures are good enough, or with ``force``."""
    figures = run_evaluate(recipe, test, run)
    predictor = trained_predictor(recipe.predictor, run / "predictor")
    export_model(folder, recipe.model, frozen_encoder(recipe, run), predictor, figures, force=force)
    return figures


def frozen_encoder(recipe: Recipe, run: Path) -> FrameEncoder:
    """The encoder of the stage that the recipe says, the second as a rule."""
    torch.manual_seed(recipe.encoder.loop.seed)
    encoder = FrameEncoder(recipe.model.encoder)
    if recipe.frozen == "alignment":
        encoder.load_state_dict(aligned_encoder(run / "alignment"))
    elif recipe.frozen == "encoder":
        encoder.vit.load_state_dict(pretrained_encoder(run / "encoder"))
    return encoder.requires_grad_(False).eval()


def _play(folder: Path, recipe: Recipe) -> PlayData:
    data = PlayData.load(folder, episodes=recipe.episodes)
    size = recipe.model.encoder.image_size
    if min(data.images.shape[2:4]) < size:
        raise InputError(
            f"{folder}: holds images of {data.images.shape[3]}x{data.images.shape[2]} pixels, the model "
            f"takes {size}x{size}; collect with store_size: {size}"
        )
    return data
