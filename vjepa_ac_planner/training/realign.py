"""Align a small model's encoder with another camera's view of the robot, from the user's own recordings.

The alignment stage again (:mod:`.alignment`), begun with the model's own encoder. Like it, this needs no
labels, only the states that the robot recorded. By default latents are asked to move as the model's own
predictor expects, so that this understands them before it is fine-tuned. (For small encoders: that of the
published model has a billion weights, and its latents are not aligned to begin with.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vjepa_ac_planner.config import from_mapping, to_mapping
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.training.alignment import AlignmentTraining, aligned_encoder, train_alignment
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.evaluate import encoder_figures, prediction_errors
from vjepa_ac_planner.training.shards import digest
from vjepa_ac_planner.world_model import WorldModel

HELD_OUT = 0.1
"""Share of the recordings that is kept back to judge by, unless others are named."""


def realignment(model: str, options: Mapping[str, Any], where: str) -> AlignmentTraining:
    """The alignment stage of a model's encoder from options that leave out encoder and start.

    Raises:
        ConfigError: wrong options.
        CheckpointError: no such model.
    """
    model = str(Path(model).expanduser().resolve()) if Path(model).expanduser().exists() else model
    encoder = find_model(model).description.encoder
    known = {"encoder": to_mapping(encoder), "start_from": model}
    return from_mapping(AlignmentTraining, {**options, **known}, where)


def realign(
    config: AlignmentTraining, data: Path, run: Path, out: Path, test: Path | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Train the encoder, and write a model folder with it and the predictor as it was; resumes.

    Args:
        config: of the alignment stage; see :func:`realignment`.
        data: play data, or training data that were imported.
        run: checkpoints and metrics.
        out: the model folder.
        test: data to judge by; None keeps some of ``data`` back, of imported data the same that
            fine-tuning keeps back with its default ``held_out``.

    Returns:
        Figures on held-out episodes, before and after: ranking, probe error, and how well the predictor
        understands the latents (``one_step`` and ``rollout`` beside ``copy`` and ``copy_rollout``).

    Raises:
        InputError: frames of another size, or too few episodes.
        CheckpointError: the run folder holds another run, or one on other data, or the model cannot be
            written.
    """
    assert config.start_from is not None, "realignment() names the model"
    base = WorldModel.load(config.start_from, device="cpu", dtype="float32")
    description = base.description
    if test is None:
        train, held_out = PlayData.load_split(data, HELD_OUT)
    else:
        train, held_out = PlayData.load(data), PlayData.load(test)
    for part, where in ((train, data), (held_out, test or data)):
        _check_size(part, where, description.image_size, description.name)

    def judge(encoder: FrameEncoder) -> dict[str, float]:
        figures, latents = encoder_figures(encoder.eval(), held_out)
        return figures | prediction_errors(base.predictor, latents, held_out)

    before = judge(base.encoder)
    # Going on with other data, it would be judged by what it has been trained on.
    train_alignment(config, train, None, run, judge, {"data": digest({"states": train.states})})
    base.encoder.load_state_dict(aligned_encoder(run))
    after = judge(base.encoder)
    made = dataclasses.replace(
        description,
        name=out.resolve().name,
        summary=f"{description.name}, its encoder aligned with other recordings; fine-tune its predictor.",
        weights="model.safetensors",
    )
    save_model(out, made, base.encoder.state_dict(), base.predictor.state_dict(), torch.float32)
    return before, after


def _check_size(data: PlayData, where: Path, size: int, model: str) -> None:
    if data.images.shape[2] != size:
        raise InputError(
            f"{where}: holds frames of {data.images.shape[2]} pixels, model {model!r} takes {size}; import "
            "again for it"
        )
