"""Encode and rollout end to end: reference numbers, laws, dtypes, devices, and the models folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import CheckpointError, InputError, MissingDependencyError
from vjepa_ac_planner.models import ModelDescription
from vjepa_ac_planner.nn import checkpoint
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import PredictorConfig
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.types import Frame
from vjepa_ac_planner.world_model import WorldModel, choose_device, choose_dtype

DATA = Path(__file__).parent / "data"
GOLDEN = {
    name: torch.from_numpy(array) for name, array in np.load(DATA / "golden.npz").items() if array.ndim
}
DESCRIPTION = ModelDescription(
    name="mini",
    summary="Random weights for tests.",
    encoder=EncoderConfig(image_size=64, dim=128, depth=2, heads=2),
    predictor=PredictorConfig(latent_dim=128, dim=128, depth=2, heads=2, grid=(4, 4)),
    weights="mini-ac.safetensors",
)
Z0, S0, ACTIONS = GOLDEN["roll_z0"][0], GOLDEN["roll_s0"][0], GOLDEN["roll_actions"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mini"
    encoder, predictor = checkpoint.load(
        checkpoint.read_weights(DATA / "mini-ac.pt"),
        DESCRIPTION.encoder,
        DESCRIPTION.predictor,
        torch.device("cpu"),
        torch.float32,
        "mini",
    )
    checkpoint.save_model(path, DESCRIPTION, encoder.state_dict(), predictor.state_dict())
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> WorldModel:
    return WorldModel.load(folder, device="cpu", dtype="float32")


def energy(latents: torch.Tensor) -> torch.Tensor:
    return (latents[:, -1].float() - GOLDEN["roll_zg"]).abs().mean((1, 2))


def test_rollout_matches_the_reference(model: WorldModel) -> None:
    latents, states = model.rollout(Z0, S0, ACTIONS)
    torch.testing.assert_close(latents, GOLDEN["roll_latents"][:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(states, GOLDEN["roll_poses"], atol=1e-5, rtol=0)
    torch.testing.assert_close(energy(latents), GOLDEN["roll_energy"], atol=0, rtol=1e-5)


def test_bfloat16_is_within_two_percent(folder: Path, model: WorldModel) -> None:
    half = WorldModel.load(folder, device="cpu", dtype="bfloat16")
    latents, states = half.rollout(Z0, S0, ACTIONS)
    assert (latents.dtype, states.dtype) == (torch.bfloat16, torch.float32)
    expected, exact_states = model.rollout(Z0, S0, ACTIONS)
    assert (latents.float() - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(states, exact_states)
    torch.testing.assert_close(energy(latents), GOLDEN["roll_energy"], atol=0, rtol=0.002)


def test_rounding_latents_to_bfloat16_leaves_energies_alone(model: WorldModel) -> None:
    """Why latents may stay in the compute dtype: see the note in WorldModel."""
    latents, _ = model.rollout(Z0, S0, ACTIONS)
    torch.testing.assert_close(energy(latents.bfloat16()), energy(latents), atol=0, rtol=2e-4)


def test_earlier_latents_do_not_see_later_actions(model: WorldModel) -> None:
    changed = ACTIONS.clone()
    changed[:, 2] *= -1
    before, after = model.rollout(Z0, S0, ACTIONS)[0], model.rollout(Z0, S0, changed)[0]
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert (after[:, 2] - before[:, 2]).abs().max() > 1e-4
    shorter = model.rollout(Z0, S0, ACTIONS[:, :2])[0]
    torch.testing.assert_close(shorter, before[:, :2], atol=1e-6, rtol=0)


def test_permuted_candidates_give_permuted_futures(model: WorldModel) -> None:
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    latents, states = model.rollout(Z0, S0, ACTIONS)
    again, again_states = model.rollout(Z0, S0, ACTIONS[order])
    torch.testing.assert_close(again, latents[order], atol=1e-6, rtol=0)
    assert torch.equal(again_states, states[order])


def test_gradients_flow_to_actions_only_when_asked_for(model: WorldModel) -> None:
    z0 = model.encode(np.full((1, 64, 64, 3), 80, np.uint8))[0]  # as a planner would get it
    plain, _ = model.rollout(z0, S0, ACTIONS)
    assert plain.is_inference()
    actions = ACTIONS.clone().requires_grad_()
    latents, _ = model.rollout(z0, S0, actions)
    torch.testing.assert_close(latents.detach(), plain, atol=1e-6, rtol=0)
    energy(latents).sum().backward()
    assert actions.grad is not None
    assert (actions.grad.abs().sum(dim=(0, 2)) > 0).all()


def test_encode_preprocesses_and_normalises(model: WorldModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), dtype=np.uint8)
    latents = model.encode(images)
    assert latents.shape == (2, DESCRIPTION.tokens, DESCRIPTION.latent_dim)
    with torch.no_grad():
        expected = model.encoder(preprocess(torch.from_numpy(images), 64))
    torch.testing.assert_close(latents, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(latents.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.var(-1, correction=0), torch.ones(2, 16), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.encode([Frame(images[1])])[0], latents[1], atol=1e-5, rtol=0)


def test_frames_equal_the_reference_encoding(model: WorldModel) -> None:
    torch.testing.assert_close(model.encoder(GOLDEN["enc_frames"]), GOLDEN["enc_latent"], atol=1e-5, rtol=0)


def test_the_published_file_loads_directly(model: WorldModel, tmp_path: Path, folder: Path) -> None:
    """A checkpoint as downloaded, with a description of its name beside it."""
    (tmp_path / "mini-ac.pt").symlink_to(DATA / "mini-ac.pt")
    (tmp_path / "mini-ac.yaml").write_text((folder / "model.yaml").read_text())
    direct = WorldModel.load(tmp_path / "mini-ac.pt", device="cpu", dtype="float32")
    assert torch.equal(direct.rollout(Z0, S0, ACTIONS)[0], model.rollout(Z0, S0, ACTIONS)[0])


def test_untrained_has_the_architecture_and_is_reproducible() -> None:
    first, again = (WorldModel.untrained(DESCRIPTION, seed=3) for _ in range(2))
    latents = first.rollout(Z0, S0, ACTIONS)[0]
    assert torch.equal(latents, again.rollout(Z0, S0, ACTIONS)[0])
    assert latents.isfinite().all()
    assert (latents[0] - latents[1]).abs().max() > 1e-3  # actions matter


@pytest.mark.slow
def test_compiled_equals_plain(model: WorldModel) -> None:
    compiled = WorldModel(model.description, model.encoder, model.predictor, compile=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(compiled.encode(image), model.encode(image), atol=1e-5, rtol=0)
    actions = ACTIONS[:, :1]
    plain, _ = model.rollout(Z0, S0, actions)
    torch.testing.assert_close(compiled.rollout(Z0, S0, actions)[0], plain, atol=1e-5, rtol=0)


def test_wrong_shapes_are_refused(model: WorldModel) -> None:
    with pytest.raises(
        InputError, match=r"rollout: expected z0 \[tokens, channels\].*received \(1, 16, 128\)"
    ):
        model.rollout(Z0[None], S0, ACTIONS)
    with pytest.raises(
        InputError, match=r"actions: expected \[6, 1, 7\], received \(6, 1, 6\)|expected shape"
    ):
        model.rollout(Z0, S0, ACTIONS[..., :6])
    with pytest.raises(InputError, match="latents: expected"):
        model.rollout(Z0[:, :64], S0, ACTIONS)


def test_devices_and_dtypes() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(InputError, match="device: received 'gpu', allowed 'auto', 'cpu'"):
        choose_device("gpu")
    with pytest.raises(MissingDependencyError, match="device: cuda:99 is not there"):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="dtype: received 'float16', allowed"):
        choose_dtype("float16", cpu)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_f": True}, torch.float32)],
)
def test_auto_dtype_follows_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_dtype("auto", torch.device("cpu")) == expected


def test_missing_weights_say_how_to_get_them(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "model.yaml").write_text((folder / "model.yaml").read_text())
    with pytest.raises(
        CheckpointError, match=r"model 'mini': no weights; looked for .*mini-ac\.safetensors"
    ):
        WorldModel.load(tmp_path)
