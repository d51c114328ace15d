"""Align a small model's encoder with another camera's view of the robot, from the user's own recordings.

The alignment stage again (:mod:`.alignment`), begun with the model's own encoder. Like it, this needs no
labels, only the states that the robot recorded. The predictor knows the old latents only and must be
fine-tuned afterwards. (For small encoders: that of the published model has a billion weights, and its
latents are not aligned to begin with.)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.training.alignment import AlignmentTraining, aligned_encoder, train_alignment
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.evaluate import encoder_figures
from vjepa_ac_planner.world_model import WorldModel

HELD_OUT = 0.1
"""Share of the episodes, the last ones, that is kept back to judge by."""


def realign(
    model: str, data: Path, run: Path, out: Path, config: AlignmentTraining
) -> tuple[dict[str, float], dict[str, float]]:
    """Train the encoder, and write a model folder with it and the predictor as it was; resumes.

    Args:
        model: to begin with, by name or folder.
        data: play data, or training data that were imported.
        run: checkpoints and metrics.
        out: the model folder.
        config: of the alignment stage; its encoder and start are the model's.

    Returns:
        Ranking and probe error on held-out episodes, before and after.

    Raises:
        InputError: frames of another size, or too few episodes.
        CheckpointError: the run folder holds another run, or the model cannot be written.
    """
    base = WorldModel.load(model, device="cpu", dtype="float32")
    description = base.description
    play = PlayData.load(data)
    size = description.image_size
    if play.images.shape[2] != size:
        raise InputError(
            f"{data}: holds frames of {play.images.shape[2]} pixels, model {description.name!r} takes "
            f"{size}; import again for it"
        )
    kept = max(2, round(HELD_OUT * len(play)))
    if len(play) < 2 * kept:
        raise InputError(f"{data}: {len(play)} episodes are too few to train on some and judge by others")
    train, test = (
        PlayData(play.images[part].numpy(), play.states[part].numpy())
        for part in (slice(None, -kept), slice(-kept, None))
    )
    before, _ = encoder_figures(base.encoder.eval(), test)
    config = dataclasses.replace(config, encoder=description.encoder, start_from=model)
    train_alignment(config, train, None, run, lambda encoder: encoder_figures(encoder, test)[0])
    base.encoder.load_state_dict(aligned_encoder(run))
    after, _ = encoder_figures(base.encoder.eval(), test)
    made = dataclasses.replace(
        description,
        name=out.resolve().name,
        summary=f"{description.name}, its encoder aligned with other recordings; fine-tune its predictor.",
        weights="model.safetensors",
    )
    save_model(out, made, base.encoder.state_dict(), base.predictor.state_dict(), torch.float32)
    return before, after
