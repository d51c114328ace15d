"""The frame encoder against reference numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.nn.checkpoint import load, read_weights
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.nn.predictor import PredictorConfig

DATA = Path(__file__).parents[1] / "data"
GOLDEN = np.load(DATA / "golden.npz")
CONFIG = EncoderConfig(image_size=64, dim=128, depth=2, heads=2)
PREDICTOR = PredictorConfig(latent_dim=128, dim=128, depth=2, heads=2, grid=(4, 4))


def encoder(dtype: torch.dtype) -> FrameEncoder:
    return load(read_weights(DATA / "mini-ac.pt"), CONFIG, PREDICTOR, torch.device("cpu"), dtype, "mini")[0]


def test_matches_the_reference() -> None:
    model = encoder(torch.float32)
    frames = torch.from_numpy(GOLDEN["enc_frames"])
    torch.testing.assert_close(model(frames), torch.from_numpy(GOLDEN["enc_latent"]), atol=1e-5, rtol=0)
    tokens = model.vit(pixel_values_videos=frames[:, None].expand(-1, 2, -1, -1, -1)).last_hidden_state
    torch.testing.assert_close(tokens, torch.from_numpy(GOLDEN["enc_tokens"]), atol=1e-5, rtol=0)


def test_bfloat16_is_within_two_percent() -> None:
    latent = encoder(torch.bfloat16)(torch.from_numpy(GOLDEN["enc_frames"]).bfloat16()).float()
    expected = torch.from_numpy(GOLDEN["enc_latent"])
    assert (latent - expected).norm() < 0.02 * expected.norm()


def test_published_size_without_the_mask_predictor() -> None:
    with torch.device("meta"):
        model = FrameEncoder(EncoderConfig())
    assert sum(p.numel() for p in model.parameters()) == 1_012_173_952
    assert model.vit.layer[0].mlp.fc1.out_features == 6144
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"frames: expected \[batch, 3, 64, 64\], received \(1, 3, 32, 32\)"
    ):
        encoder(torch.float32)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_size": 100}, "image_size: received 100 pixels, allowed are multiples of patch_size"),
        ({"dim": 1400}, "dim: received 1400 for 22 heads"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio: received nan"),
    ],
)
def test_impossible_sizes_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        EncoderConfig(**options)
