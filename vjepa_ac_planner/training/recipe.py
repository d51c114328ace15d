"""A training recipe: one YAML file with the model's sizes and the configuration of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vjepa_ac_planner.config import from_mapping, load_yaml
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

    def __post_init__(self) -> None:
        if not self.model.encoder == self.encoder.encoder == self.alignment.encoder:
            raise ConfigError("encoder: the stages and the model must have the same sizes")
        if self.model.predictor != self.predictor.predictor:
            raise ConfigError("predictor: the stage and the model must have the same sizes")


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: unknown keys, values out of range, or stages that do not fit each other.
    """
    return from_mapping(Recipe, load_yaml(path), str(path))
