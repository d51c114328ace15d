"""The predictor against reference numbers, its cache against itself, and the laws it obeys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.nn.checkpoint import load, read_weights
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.layers import apply_rope, rope_table
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig, latent_norm

DATA = Path(__file__).parents[1] / "data"
GOLDEN = {
    name: torch.from_numpy(array) for name, array in np.load(DATA / "golden.npz").items() if array.ndim
}
CONFIG = PredictorConfig(latent_dim=128, dim=128, depth=2, heads=2, grid=(4, 4))
ENCODER = EncoderConfig(image_size=64, dim=128, depth=2, heads=2)


@pytest.fixture(scope="module")
def predictor() -> ActionConditionedPredictor:
    weights = read_weights(DATA / "mini-ac.pt")
    return load(weights, ENCODER, CONFIG, torch.device("cpu"), torch.float32, "mini")[1]


def small_predictor(
    grid: tuple[int, int] = (2, 3), dim: int = 48, heads: int = 2
) -> ActionConditionedPredictor:
    torch.manual_seed(0)
    model = ActionConditionedPredictor(
        PredictorConfig(latent_dim=10, dim=dim, depth=2, heads=heads, mlp_ratio=2.0, grid=grid)
    )
    for parameter in model.parameters():  # larger than at initialisation, so that every part counts
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def clip(model: ActionConditionedPredictor, batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    config = model.config
    z = torch.randn(batch, steps, config.tokens, config.latent_dim, generator=generator)
    s, a = torch.randn(2, batch, steps, 7, generator=generator)
    return z, s, a


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_matches_the_reference(predictor: ActionConditionedPredictor, steps: int) -> None:
    z = GOLDEN[f"pred{steps}_z"].unflatten(1, (steps, 16))
    out = predictor(z, GOLDEN[f"pred{steps}_s"], GOLDEN[f"pred{steps}_a"])
    torch.testing.assert_close(out.flatten(1, 2), GOLDEN[f"pred{steps}_out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_bfloat16_is_within_two_percent(predictor: ActionConditionedPredictor, steps: int) -> None:
    half = ActionConditionedPredictor(CONFIG).to(torch.bfloat16)
    half.load_state_dict(predictor.state_dict())
    z = GOLDEN[f"pred{steps}_z"].unflatten(1, (steps, 16))
    with torch.no_grad():
        out = half(z, GOLDEN[f"pred{steps}_s"], GOLDEN[f"pred{steps}_a"])
    assert out.dtype == torch.bfloat16
    expected = GOLDEN[f"pred{steps}_out"]
    assert (out.flatten(1, 2).float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("recorded", [False, True])
def test_cached_equals_uncached(predictor: ActionConditionedPredictor, recorded: bool) -> None:
    """The cached rollout, written in place or recorded for gradients, is the growing clip's last step."""
    actions, z0 = GOLDEN["roll_actions"], GOLDEN["roll_z0"]
    candidates, horizon, _ = actions.shape
    states = geometry.integrate(GOLDEN["roll_s0"], actions)
    with torch.set_grad_enabled(recorded):
        cache, z = predictor.start_rollout(horizon), z0
        history = z0.expand(candidates, -1, -1).unsqueeze(1)
        for t in range(horizon):
            z = latent_norm(predictor.forward_step(z, states[:, t], actions[:, t], cache))
            whole = predictor(history, states[:, : t + 1], actions[:, : t + 1])[:, -1]
            torch.testing.assert_close(z, latent_norm(whole), atol=1e-5, rtol=0)
            torch.testing.assert_close(z, GOLDEN["roll_latents"][:, t + 1], atol=1e-5, rtol=0)
            history = torch.cat((history, z.unsqueeze(1)), dim=1)


def test_gradients_reach_the_first_action_through_the_cache() -> None:
    model = small_predictor()
    z, s, a = clip(model, 2, 3)
    a.requires_grad_()
    cache, latent = model.start_rollout(3), z[:, 0]
    for t in range(3):
        latent = latent_norm(model.forward_step(latent, s[:, t], a[:, t], cache))
    latent.square().sum().backward()
    assert a.grad is not None
    assert (a.grad.abs().sum(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("changed", ["z", "states", "actions"])
def test_the_future_does_not_change_the_past(changed: str) -> None:
    model = small_predictor()
    z, s, a = clip(model, 2, 4)
    before = model(z, s, a)
    inputs = {"z": z, "states": s, "actions": a}
    inputs[changed] = inputs[changed].clone()
    inputs[changed][:, 2] += 1.0
    after = model(**inputs)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert ((after[:, 2:] - before[:, 2:]).abs().amax(dim=(0, 2, 3)) > 1e-3).all()


def test_candidates_do_not_mix() -> None:
    model = small_predictor()
    z, s, a = clip(model, 5, 3)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        model(z[order], s[order], a[order]), model(z, s, a)[order], atol=1e-6, rtol=0
    )


def test_a_shared_latent_and_state_are_the_same_as_repeated_ones() -> None:
    model = small_predictor()
    z, s, a = clip(model, 4, 1)
    shared = model.forward_step(z[:1, 0], s[:1, 0], a[:, 0], model.start_rollout(1))
    repeated = model.forward_step(
        z[:1, 0].expand(4, -1, -1), s[:1, 0].expand(4, -1), a[:, 0], model.start_rollout(1)
    )
    torch.testing.assert_close(shared, repeated, atol=1e-6, rtol=0)


def test_a_rectangular_grid_counts_rows_and_columns() -> None:
    """A 2x3 and a 3x2 grid number the same six tokens differently, so they must answer differently."""
    wide, tall = small_predictor((2, 3)), small_predictor((3, 2))
    z, s, a = clip(wide, 1, 1)
    assert (wide(z, s, a) - tall(z, s, a)).abs().max() > 1e-3


def test_longer_clips_than_before_regrow_the_tables() -> None:
    model = small_predictor()
    z, s, a = clip(model, 1, 20)
    short = model(z[:, :2], s[:, :2], a[:, :2])
    torch.testing.assert_close(model(z, s, a)[:, :2], short, atol=1e-5, rtol=0)


def test_inference_first_does_not_spoil_training() -> None:
    model = small_predictor()
    z, s, a = clip(model, 1, 2)
    with torch.inference_mode():
        model(z, s, a)
    model(z, s, a).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_mixed_precision_training_is_close_to_full() -> None:
    """Under autocast the weights stay float32 and the tokens are bfloat16, in training and in a rollout."""
    model = small_predictor()
    z, s, a = clip(model, 2, 3)
    plain = model(z, s, a)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(z, s, a)
        step = model.forward_step(z[:, 0], s[:, 0], a[:, 0], model.start_rollout(1))
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - plain).norm() < 0.03 * plain.norm()
    assert (step.float() - plain[:, 0]).norm() < 0.03 * plain[:, 0].norm()
    mixed.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_rope_keeps_the_tiled_angles_of_the_reference() -> None:
    """Channel by channel, from the definition: 64 channels at time 3, row 5, column 7."""
    x = torch.randn(1, 1, 2, 1, 64, dtype=torch.float64)
    rotated = apply_rope(x, rope_table(torch.tensor([[3.0, 5.0, 7.0]], dtype=torch.float64), 64))
    expected = x.clone()
    for group, position in enumerate((3.0, 5.0, 7.0)):
        for channel in range(20):
            angle = torch.tensor(position / 10000 ** (channel % 10 / 10), dtype=torch.float64)
            here = group * 20 + channel
            other = -x[..., here + 1] if channel % 2 == 0 else x[..., here - 1]
            expected[..., here] = x[..., here] * angle.cos() + other * angle.sin()
    torch.testing.assert_close(rotated, expected, atol=1e-12, rtol=0)


def test_published_size() -> None:
    with torch.device("meta"):
        model = ActionConditionedPredictor(PredictorConfig())
    assert sum(p.numel() for p in model.parameters()) == 305_213_824


def test_initialisation_is_scaled_by_depth() -> None:
    torch.manual_seed(0)
    model = ActionConditionedPredictor(
        PredictorConfig(latent_dim=64, dim=192, depth=4, heads=4, grid=(2, 2))
    )
    stds = [block.mlp.down.weight.std().item() for block in model.blocks]
    for number, std in enumerate(stds, start=1):
        assert std == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 100, "heads": 3}, "dim: received 100 for 3 heads"),
        ({"dim": 12, "heads": 4}, "at least 6"),
        ({"depth": 0}, "depth: received 0, allowed 1"),
        ({"grid": (0, 4)}, "grid rows: received 0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PredictorConfig(**options)


def test_wrong_shapes_are_refused() -> None:
    model = small_predictor()
    z, s, a = clip(model, 2, 2)
    with pytest.raises(
        InputError, match=r"latents: expected \[batch, steps, 6, 10\], received \(2, 2, 5, 10\)"
    ):
        model(z[:, :, :5], s, a)
    with pytest.raises(InputError, match=r"states: expected \[2, 2, 7\], received \(2, 1, 7\)"):
        model(z, s[:, :1], a)
    with pytest.raises(InputError, match="latents: 3 for 2 actions"):
        model(torch.cat((z, z))[:3], s, a)
    cache = model.start_rollout(1)
    model.forward_step(z[:, 0], s[:, 0], a[:, 0], cache)
    with pytest.raises(InputError, match="holds 1 steps and is full"):
        model.forward_step(z[:, 0], s[:, 0], a[:, 0], cache)
    with pytest.raises(InputError, match="horizon: received 0"):
        model.start_rollout(0)
