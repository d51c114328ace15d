"""A tiny model for benchmarks: what they print is not looked at, only that it is right."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny():
    """Untrained, 2 x 2 tokens, one block."""
    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn.encoder import EncoderConfig
    from vjepa_ac_planner.nn.predictor import PredictorConfig
    from vjepa_ac_planner.world_model import WorldModel

    description = ModelDescription(
        name="tiny",
        summary="Untrained.",
        encoder=EncoderConfig(image_size=32, dim=64, depth=1, heads=2),
        predictor=PredictorConfig(latent_dim=64, dim=64, depth=1, heads=2, grid=(2, 2)),
        workspace=((0.3, -0.3, 0.1), (0.7, 0.3, 0.6)),
    )
    return WorldModel.untrained(description)


@pytest.fixture(scope="session")
def folder(tiny, tmp_path_factory) -> str:
    """The same model as a folder."""
    from vjepa_ac_planner.nn.checkpoint import save_model

    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, tiny.description, tiny.encoder.state_dict(), tiny.predictor.state_dict())
    return str(path)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()
