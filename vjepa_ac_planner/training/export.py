"""The last step: frozen encoder and folded predictor as a model folder, with its figures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vjepa_ac_planner.errors import CheckpointError
from vjepa_ac_planner.models import ModelDescription
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor
from vjepa_ac_planner.nn.storage import replacing
from vjepa_ac_planner.training.scaling import fold_scales


def export_model(
    folder: Path,
    description: ModelDescription,
    encoder: FrameEncoder,
    predictor: ActionConditionedPredictor,
    figures: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    *,
    force: bool = False,
) -> None:
    """Write ``model.safetensors``, ``model.yaml`` and ``metrics.json``; folds the predictor's scales.

    Raises:
        CheckpointError: weights that do not fit the description, or an encoder that its own figures
            do not accept (see :func:`acceptance`); with ``force`` it is written all the same.
    """
    refused = acceptance(figures)
    if refused and not force:
        raise CheckpointError(f"{folder}: not exported: " + "; ".join(refused))
    save_model(folder, description, encoder.state_dict(), fold_scales(predictor).state_dict(), dtype)
    with replacing(folder / "metrics.json") as file:
        file.write((json.dumps(figures, indent=2) + "\n").encode())


def acceptance(figures: dict[str, float]) -> list[str]:
    """Why an encoder is not good enough to plan with; empty if it is.

    Its latents must rank distances better than raw pixels and than a random encoder, and their change
    must be told by the action: better than by copying, and than by another clip's action.
    """
    rules = (
        ("ranking", "ranking_pixels", True, "the latents rank distance no better than raw pixels"),
        ("ranking", "ranking_random_encoder", True, "they rank it no better than a random encoder's"),
        ("one_step", "copy", False, "a step is predicted no better than by copying the latent"),
        ("one_step", "shuffled", False, "the action does not help to predict the next latent"),
    )
    unknown = [] if "ranking" in figures else ["no held-out arm moves 5 cm, so that nothing can be ranked"]
    return unknown + [
        f"{reason} ({name} {figures[name]:.3f}, {other} {figures[other]:.3f})"
        for name, other, higher, reason in rules
        if name in figures
        and not (figures[name] > figures[other] if higher else figures[name] < figures[other])
    ]
