"""Alignment: what each channel may follow, and going on from a finished model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.models import ModelDescription
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training.alignment import AlignmentStage, AlignmentTraining, MotionDirections
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.predictor import PredictorStage, PredictorTraining
from vjepa_ac_planner.world_model import WorldModel

ENCODER = EncoderConfig(image_size=32, dim=24, depth=1, heads=2, mlp_ratio=2.0)
PREDICTOR = PredictorConfig(latent_dim=24, dim=24, depth=1, heads=2, mlp_ratio=2.0, grid=(2, 2))


@pytest.fixture
def play() -> PlayData:
    rng = np.random.default_rng(0)
    states = np.zeros((6, 5, 7), np.float32)
    states[..., :3] = np.cumsum(rng.uniform(-0.05, 0.05, (6, 5, 3)), axis=1) + 0.5
    states[..., 6] = rng.uniform(size=(6, 5))
    return PlayData(rng.integers(0, 255, (6, 5, 32, 32, 3), dtype=np.uint8), states)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    folder = tmp_path / "tiny"
    description = ModelDescription(name="tiny", summary="For a test.", encoder=ENCODER, predictor=PREDICTOR)
    encoder, predictor = FrameEncoder(ENCODER), ActionConditionedPredictor(PREDICTOR)
    save_model(folder, description, encoder.state_dict(), predictor.state_dict())
    return folder


def test_some_channels_follow_the_gripper_alone_and_the_others_the_arm() -> None:
    torch.manual_seed(0)
    config = AlignmentTraining(
        ENCODER, gripper_share=0.25, gain=0.3, motion_scale=(10.0, 10.0, 10.0, 0.0, 0.0, 2.0, 2.0)
    )
    directions = MotionDirections(config)()
    assert torch.allclose(directions.norm(dim=0), torch.full((4, 24), 0.3))
    assert (directions[6, :, :18] == 0).all() and (directions[6, :, 18:].abs() > 0.29).all()
    assert (directions[:6, :, 18:] == 0).all() and (directions[3:5] == 0).all()
    mixed = MotionDirections(AlignmentTraining(ENCODER))()
    assert (mixed != 0).all()


def test_stages_go_on_from_a_model_and_leave_its_function_as_it_is(play: PlayData, model: Path) -> None:
    finished = WorldModel.load(model, device="cpu", dtype="float32")
    stage = AlignmentStage(AlignmentTraining(ENCODER, start_from=str(model)), play, None)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(stage.encoder(pixels), finished.encoder(pixels))
    assert all(p.requires_grad for p in stage.encoder.parameters())

    latents = torch.randn(6, 5, 4, 24, generator=torch.Generator().manual_seed(0))
    after = PredictorStage(PredictorTraining(PREDICTOR, start_from=str(model)), play, latents)
    inputs = latents[:, :2], play.states[:, :2], play.actions[:, :2]
    with torch.no_grad():
        assert torch.allclose(after.predictor(*inputs), finished.predictor(*inputs), atol=1e-5)


def test_directions_start_from_what_the_latents_follow_already(play: PlayData, model: Path) -> None:
    from vjepa_ac_planner.training.alignment import _fit_directions

    class Linear(FrameEncoder):
        """Latents that hold the square's place: channel 0 follows x, channel 1 against it."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = pixels[:, 0, 0, 0]
            z = torch.zeros(len(pixels), 4, 24)
            z[..., 0], z[..., 1] = x[:, None], -x[:, None]
            return z

    x = play.states[..., 0]
    play.images[..., 0, 0, 0] = (255 * (x - x.min()) / (x.max() - x.min())).to(torch.uint8)
    directions = MotionDirections(AlignmentTraining(ENCODER))
    _fit_directions(directions, Linear(ENCODER), play, seed=0)
    fitted = directions()[0]
    assert (fitted[:, 0] > 0.1).all() and (fitted[:, 1] < -0.1).all()


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gripper_share: received 1\.5"):
        AlignmentTraining(ENCODER, gripper_share=1.5)
