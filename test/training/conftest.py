"""A tiny model and tiny recordings, in every form that training takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner.training.dataset import write_dataset_shard

SIZE = 32


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A model folder: untrained, of two blocks."""
    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn.checkpoint import save_model
    from vjepa_ac_planner.nn.encoder import EncoderConfig
    from vjepa_ac_planner.nn.predictor import PredictorConfig
    from vjepa_ac_planner.world_model import WorldModel

    description = ModelDescription(
        name="tiny",
        summary="Untrained, for tests.",
        encoder=EncoderConfig(image_size=SIZE, dim=24, depth=1, heads=2, mlp_ratio=2.0),
        predictor=PredictorConfig(latent_dim=24, dim=24, depth=2, heads=2, mlp_ratio=2.0, grid=(2, 2)),
    )
    model = WorldModel.untrained(description)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, description, model.encoder.state_dict(), model.predictor.state_dict())
    return folder


@pytest.fixture(scope="session")
def moving_square():
    """Makes an episode in which a bright square moves as the state does: images and states."""

    def make(frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(seed)
        states = np.zeros((frames, 7), np.float32)
        states[:, :2] = np.cumsum(rng.uniform(-0.08, 0.08, (frames, 2)), axis=0) + 0.5
        states[:, 3] = np.pi * rng.choice([-1, 1], frames)
        images = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
        for frame in range(frames):
            x, y = (states[frame, :2] * 24).astype(int).clip(0, 24)
            images[frame, y : y + 8, x : x + 8] = 255
        return torch.from_numpy(images), torch.from_numpy(states)

    return make


@pytest.fixture
def dataset_folder(tmp_path, moving_square) -> Path:
    """Training data of three recordings with four episodes of 4 to 9 frames."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, lengths in enumerate(([6, 4], [9], [7])):
        episodes = [moving_square(length, 10 * number + i) for i, length in enumerate(lengths)]
        images, states = (torch.cat(parts) for parts in zip(*episodes, strict=True))
        about = {
            "recording": f"run{number}",
            "origin": f"/robot/run{number}",
            "part": "0",
            "step_seconds": "0.25",
        }
        write_dataset_shard(folder / f"run{number}.safetensors", about, images, states, lengths)
    return folder
