"""A training recipe: one YAML file with the model's sizes and the configuration of every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vjepa_ac_planner.config import check_range, from_mapping, load_yaml, merged
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.models import ModelDescription
from vjepa_ac_planner.training.alignment import AlignmentTraining
from vjepa_ac_planner.training.encoder import EncoderTraining
from vjepa_ac_planner.training.predictor import PredictorTraining


@dataclass(frozen=True)
class Recipe:
    """What ``config/training/*.yaml`` holds.

    Raises:
        ConfigError: the stages do not train the model that is described.
    """

    model: ModelDescription
    encoder: EncoderTraining
    alignment: AlignmentTraining
    predictor: PredictorTraining
    episodes: int | None = None
    """Train on the first episodes only, this many of them."""
    frozen: Literal["alignment", "encoder", "chance"] = "alignment"
    """The stage whose encoder is frozen for the predictor. The last one; what the others are good for, and
    an encoder left as chance made it, is a question for comparisons."""

    def __post_init__(self) -> None:
        if not self.model.encoder == self.encoder.encoder == self.alignment.encoder:
            raise ConfigError("encoder: the stages and the model must have the same sizes")
        if self.episodes is not None:
            check_range("episodes", self.episodes, 1, 10**9)
        if self.model.predictor != self.predictor.predictor:
            raise ConfigError("predictor: the stage and the model must have the same sizes")


def load_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the file.
        changes: values that replace the file's, nested as they are there.

    Raises:
        ConfigError: unknown keys, values out of range, or stages that do not fit each other.
    """
    return from_mapping(Recipe, merged(load_yaml(path), changes or {}), str(path))
