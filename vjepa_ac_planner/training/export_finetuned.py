"""The best weights of a fine-tuning run as a model folder: the plain architecture, ready to plan with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.errors import CheckpointError
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.nn.storage import replacing
from vjepa_ac_planner.training.checkpoints import content_digest
from vjepa_ac_planner.training.finetune import (
    BEFORE,
    RUN,
    FinetuneConfig,
    adapt_as,
    best_figures,
    load_best,
)
from vjepa_ac_planner.training.trainable import finish, new_predictor
from vjepa_ac_planner.world_model import WorldModel

_TRAINED = {
    "all": "fine-tuned",
    "last": "fine-tuned in its last blocks",
    "lora": "fine-tuned with LoRA",
    "scratch": "trained anew",
}


def export_run(folder: Path, out: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the best weights of a run as a model folder: the plain architecture, ready to plan with.

    Args:
        folder: of the run.
        out: the model folder, after which the model is named.
        force: write it even if it predicts held-out clips no better than copying.

    Returns:
        Figures before and after.

    Raises:
        CheckpointError: no run there, nothing trained yet, the model that it began with has changed, or
            the figures do not accept it.
    """
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        before = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: holds no fine-tuning run ({error})") from error
    config = from_mapping(FinetuneConfig, record["config"], str(folder / RUN))
    base = WorldModel.load(record["model"], device="cpu", dtype="float32")
    if content_digest(base.predictor.state_dict()) != record["weights"]:
        raise CheckpointError(
            f"{folder}: began with model {record['model']!r} when it had other weights; bring those back"
        )
    after = best_figures(folder) or {}
    refused = acceptance(after)
    if refused and not force:
        raise CheckpointError(f"{out}: not exported: {'; '.join(refused)}")
    predictor = base.predictor
    if config.train == "scratch":
        predictor = new_predictor(base.description.predictor, config.loop.seed)
    load_best(folder, adapt_as(config, predictor))
    data = record["data_set"]
    description = dataclasses.replace(
        base.description,
        name=out.resolve().name,
        summary=(
            f"{base.description.name}, its predictor {_TRAINED[config.train]} on {data['hours']:.2f} h of "
            f"{data['recordings']} recordings."
        ),
        weights="model.safetensors",
    )
    save_model(
        out, description, base.encoder.state_dict(), finish(predictor).state_dict(), _kept_dtype(base)
    )
    figures = {"before": before, "after": after, "data_set": data, "config": record["config"]}
    with replacing(out / "metrics.json") as file:
        file.write((json.dumps(figures, indent=2) + "\n").encode())
    return figures


def acceptance(figures: dict[str, float]) -> list[str]:
    """Why a predictor is not worth planning with; empty if it is."""
    if not figures:
        return ["it was not yet judged; let the run come to its first evaluation"]
    return [
        f"{reason} ({figures['one_step']:.4f}, {name} {figures[name]:.4f})"
        for name, reason in (
            ("copy", "a step is predicted no better than by copying the latent"),
            ("shuffled", "the action does not help to predict the next latent"),
        )
        if not figures["one_step"] < figures[name]
    ]


def _kept_dtype(model: WorldModel) -> torch.dtype:
    """Large models are kept in what they are computed in on a GPU, as `vjepa-ac models convert` does."""
    numbers = sum(p.numel() for p in model.encoder.parameters())
    return torch.bfloat16 if numbers > 100_000_000 else torch.float32
