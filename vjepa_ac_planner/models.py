"""Model descriptions: what a model is, where its weights lie, and how models are found by name.

A description is a YAML file: ``<folder>/model.yaml`` for a model with its own folder, or
``<name>.yaml`` for one whose weights are fetched separately. Both kinds lie in a ``models`` folder of
:func:`model_folders`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vjepa_ac_planner.config import check_range, from_mapping, load_yaml
from vjepa_ac_planner.errors import CheckpointError, ConfigError
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import PredictorConfig
from vjepa_ac_planner.resources import PACKAGE, resource_folders

FOLDERS_VARIABLE = "VJEPA_AC_MODELS"
"""Environment variable with further model folders, separated as in PATH; searched first."""
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Source:
    """Where weights come from; for people, nothing is downloaded by itself."""

    checkpoint: str | None = None
    """URL of the published checkpoint."""
    huggingface: str | None = None
    """Hugging Face id of the encoder alone, which need not be the one that the predictor knows."""
    code: str | None = None
    """URL of the code, paper or command that made the weights."""


@dataclass(frozen=True)
class ModelDescription:
    """Everything about a model but its weights.

    Raises:
        ConfigError: predictor and encoder do not fit each other, or a value is out of range.
    """

    name: str
    """How the model is called on the command line and in reports."""
    summary: str
    """One sentence: what it is and what it is for."""
    encoder: EncoderConfig
    """Architecture of the frame encoder."""
    predictor: PredictorConfig
    """Architecture of the action-conditioned predictor."""
    weights: str = "model.safetensors"
    """Weights file, relative to the description."""
    step_seconds: float = 0.25
    """Duration of one step, which is what an action is the change over [s]."""
    ee_frame: str = "panda_link8"
    """The frame whose pose in the robot base frame is the state."""
    preset: str = "paper"
    """Planner preset that suits the model, by name."""
    workspace: Box | None = None
    """Box of positions the model was trained in, in the base frame: [low xyz, high xyz] [m]."""
    limits: str | None = None
    """What it cannot do, in a sentence or two, for reports and the model's card."""
    license: str = "unknown"
    """License of the weights."""
    source: Source = field(default_factory=Source)
    """Where the weights come from."""

    def __post_init__(self) -> None:
        check_range("step_seconds", self.step_seconds, 0.01, 10.0, "s")
        if self.predictor.latent_dim != self.encoder.dim or self.predictor.grid != self.encoder.grid:
            raise ConfigError(
                f"predictor: expects latents of {self.predictor.latent_dim} channels on a grid "
                f"{self.predictor.grid}, but the encoder makes {self.encoder.dim} channels on "
                f"{self.encoder.grid}"
            )
        if self.workspace is not None:
            for axis, low, high in zip("xyz", *self.workspace, strict=True):
                if not -5.0 <= low < high <= 5.0:
                    raise ConfigError(
                        f"workspace: received {low} .. {high} m along {axis}; "
                        "allowed are increasing bounds within 5 m of the base"
                    )

    @property
    def image_size(self) -> int:
        """Side of the model's square frame [pixels]."""
        return self.encoder.image_size

    @property
    def latent_dim(self) -> int:
        """D, channels of a latent token."""
        return self.encoder.dim

    @property
    def tokens(self) -> int:
        """N, tokens of a latent."""
        return self.encoder.tokens


@dataclass(frozen=True)
class ModelFiles:
    """A description and where its files lie."""

    description: ModelDescription
    path: Path
    """The description's YAML file."""
    weights: Path | None
    """The weights file, or None when it is in none of the places."""

    def require_weights(self) -> Path:
        """The weights file.

        Raises:
            CheckpointError: it is missing; the text says where it comes from and how to get it in place.
        """
        if self.weights is not None:
            return self.weights
        description = self.description
        where = (
            f" Download {description.source.checkpoint}, then" if description.source.checkpoint else " To"
        )
        places = ", ".join(str(place) for place in _weight_places(description, self.path))
        raise CheckpointError(
            f"model {description.name!r}: no weights; looked for {places}.{where} run "
            f"`vjepa-ac models convert {description.name} <downloaded file>` to put them in place, or name "
            "the file itself"
        )


def load_description(path: str | Path) -> ModelDescription:
    """Read one description file.

    Raises:
        ConfigError: missing, not YAML, unknown keys or values out of range.
    """
    return from_mapping(ModelDescription, load_yaml(path), str(path))


def user_folder() -> Path:
    """Where converted weights go by default: a folder of the user, since ``share`` may be read-only."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / PACKAGE / "models"


def model_folders() -> tuple[Path, ...]:
    """Existing folders in which models are looked up by name, the first find winning.

    In order: those of :data:`FOLDERS_VARIABLE`, the user's, and those of the package itself, see
    :func:`~vjepa_ac_planner.resources.resource_folders`.
    """
    named = [Path(p) for p in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    places = (*named, user_folder(), *resource_folders("models"))
    return tuple(dict.fromkeys(place for place in places if place.is_dir()))


def list_models() -> tuple[ModelFiles, ...]:
    """Every model that can be named, by name; a file that describes none is passed over with a warning."""
    found, _ = _known()
    return tuple(found[name] for name in sorted(found))


def find_model(name_or_path: str | Path) -> ModelFiles:
    """The model of this name, folder, description file or weights file.

    A weights file takes the description beside it (``<stem>.yaml`` or ``model.yaml``), else the known
    one of its name: ``~/Downloads/vjepa2-ac-vitg.pt`` needs nothing more.

    Raises:
        ConfigError: no such model (the known ones are listed), or its description is not valid.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in WEIGHT_SUFFIXES:
        for beside in (path.with_suffix(".yaml"), path.with_name("model.yaml")):
            if beside.is_file():
                return ModelFiles(load_description(beside), beside, path)
        try:
            known = find_model(path.stem)
        except ConfigError as error:
            if not path.is_file():
                raise
            raise ConfigError(
                f"{path}: no description of this model beside it ({path.stem}.yaml or model.yaml), and no "
                f"known model is called {path.stem!r}; put its description there"
            ) from error
        return ModelFiles(known.description, known.path, path)
    if path.is_dir():
        return _files(path / "model.yaml")
    if path.suffix in (".yaml", ".yml"):
        return _files(path)
    models, wrong = _known()
    if str(name_or_path) not in models:
        for file, problem in wrong.items():
            if str(name_or_path) in (file.stem, file.parent.name):
                raise problem
        raise ConfigError(
            f"model: received {str(name_or_path)!r}, which is neither a path nor a known name; "
            f"known: {', '.join(sorted(models)) or 'none'} "
            f"(searched {', '.join(map(str, model_folders()))}; add folders with {FOLDERS_VARIABLE})"
        )
    return models[str(name_or_path)]


def _known() -> tuple[dict[str, ModelFiles], dict[Path, ConfigError]]:
    """Models by name, and files in the models' folders that describe none, with what is wrong."""
    found: dict[str, ModelFiles] = {}
    wrong: dict[Path, ConfigError] = {}
    for folder in model_folders():
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*/model.yaml"))):
            try:
                files = _files(path)
            except ConfigError as error:
                wrong[path] = error
                _warn(f"passed over, not a model: {' '.join(str(error).split())}")
            else:
                found.setdefault(files.description.name, files)
    return found, wrong


@cache  # once, however often models are looked for
def _warn(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)


def _files(path: Path) -> ModelFiles:
    description = load_description(path)
    weights = next((place for place in _weight_places(description, path) if place.is_file()), None)
    return ModelFiles(description, path, weights)


def _weight_places(description: ModelDescription, path: Path) -> tuple[Path, ...]:
    folders = [path.parent]
    if path.name != "model.yaml":  # weights of a model without a folder of its own may lie elsewhere
        folders += [*model_folders(), user_folder()]
    return tuple(dict.fromkeys(folder / description.weights for folder in folders))
