"""All stages on a few frames: they learn, they resume, and what they export is the plain architecture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.errors import CheckpointError, ConfigError, InputError, PlannerError
from vjepa_ac_planner.nn.checkpoint import save_model
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig, latent_norm
from vjepa_ac_planner.training.alignment import aligned_encoder
from vjepa_ac_planner.training.data import PlayData, rewrap_roll
from vjepa_ac_planner.training.encoder import MaskDenoising, pretrained_encoder, train_encoder
from vjepa_ac_planner.training.export import acceptance, export_model
from vjepa_ac_planner.training.growing import load_grown
from vjepa_ac_planner.training.loop import LoopConfig, WholeEngine, optimise
from vjepa_ac_planner.training.predictor import start_from_copy, trained_predictor
from vjepa_ac_planner.training.recipe import Recipe, load_recipe
from vjepa_ac_planner.training.scaling import InputScales, fold_scales, scale_inputs
from vjepa_ac_planner.training.stages import (
    frozen_encoder,
    run_alignment,
    run_encoder,
    run_evaluate,
    run_predictor,
)
from vjepa_ac_planner.world_model import WorldModel

ENCODER = {"image_size": 32, "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0}
PREDICTOR = {"latent_dim": 24, "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "grid": [2, 2]}


@pytest.fixture
def recipe() -> Recipe:
    loop = {"iterations": 4, "checkpoint_every": 2, "log_every": 1}
    return from_mapping(
        Recipe,
        {
            "model": {"name": "tiny", "summary": "For a test.", "encoder": ENCODER, "predictor": PREDICTOR},
            "encoder": {
                "encoder": ENCODER,
                "predictor": {"dim": 12, "depth": 1, "heads": 1},
                "batch": 4,
                "loop": loop,
            },
            "alignment": {"encoder": ENCODER, "episodes": 2, "loop": loop},
            "predictor": {"predictor": PREDICTOR, "batch": 2, "loop": loop},
        },
    )


@pytest.fixture
def play(tmp_path: Path) -> Path:
    """Episodes in which a bright square moves as the state does."""
    rng = np.random.default_rng(0)
    episodes, frames = 4, 6
    states = np.zeros((episodes, frames, 7), np.float32)
    states[..., :2] = np.cumsum(rng.uniform(-0.05, 0.05, (episodes, frames, 2)), axis=1) + 0.5
    states[..., 3] = np.pi * rng.choice([-1, 1], (episodes, frames))
    images = np.zeros((episodes, frames, 32, 32, 3), np.uint8)
    for episode in range(episodes):
        for frame in range(frames):
            x, y = (states[episode, frame, :2] * 24).astype(int).clip(0, 24)
            images[episode, frame, y : y + 8, x : x + 8] = 255
    folder = tmp_path / "play"
    folder.mkdir()
    for index, part in enumerate((slice(0, 3), slice(3, 4))):
        np.save(folder / f"shard-{index:05d}-images.npy", images[part])
        np.save(folder / f"shard-{index:05d}-states.npy", states[part])
    return folder


def test_stages_run_in_order_and_export_a_model_that_loads(recipe, play, tmp_path) -> None:
    run = tmp_path / "run"
    run_encoder(recipe, play, run)
    run_alignment(recipe, play, play, run)
    run_predictor(recipe, play, play, run)
    figures = run_evaluate(recipe, play, run)
    assert {
        "ranking",
        "ranking_pixels",
        "ranking_random_encoder",
        "one_step",
        "copy",
        "shuffled",
        "probe_m",
    } <= set(figures)

    predictor = trained_predictor(recipe.predictor, run / "predictor")
    data = PlayData.load(play)
    batch = data.windows(3, 3, torch.Generator().manual_seed(0))
    encoder = frozen_encoder(recipe, run)
    z = torch.randn(3, 2, 4, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = predictor(z, batch.states[:, :2], batch.actions)
    good = {**figures, "ranking": 0.9, "ranking_pixels": 0.8, "ranking_random_encoder": 0.7}
    good.update(one_step=0.1, copy=0.2, shuffled=0.3)
    export_model(tmp_path / "tiny", recipe.model, encoder, predictor, good)

    model = WorldModel.load(tmp_path / "tiny", device="cpu", dtype="float32")
    with torch.no_grad():
        after = model.predictor(z, batch.states[:, :2], batch.actions)
    assert torch.allclose(before, after, atol=1e-6)
    assert json.loads((tmp_path / "tiny" / "metrics.json").read_text())["ranking"] == 0.9


def test_a_resumed_run_ends_where_the_unbroken_one_does(recipe, play, tmp_path) -> None:
    data = PlayData.load(play)
    train_encoder(recipe.encoder, data, tmp_path / "whole")

    class Stopped(Exception):
        pass

    stage = MaskDenoising(recipe.encoder, data)
    steps = 0

    def stop_in_the_third(progress: float) -> None:
        nonlocal steps
        steps += 1
        MaskDenoising.after_step(stage, progress)
        if steps == 3:
            raise Stopped

    stage.after_step = stop_in_the_third  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        optimise(stage, recipe.encoder.loop, tmp_path / "broken", recipe.encoder, WholeEngine())
    train_encoder(recipe.encoder, data, tmp_path / "broken")

    whole, resumed = pretrained_encoder(tmp_path / "whole"), pretrained_encoder(tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_mask_denoising_encoder_does_not_see_hidden_patches(recipe, play) -> None:
    stage = MaskDenoising(recipe.encoder, PlayData.load(play))
    visible = torch.tensor([[0, 3]])
    clip = torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = clip.clone()
    other[..., :16, 16:] += 1.0  # patch 1, hidden
    same = stage._encode_visible(clip, visible)
    assert torch.equal(same, stage._encode_visible(other, visible))
    other[..., :16, :16] += 1.0  # patch 0, visible
    assert not torch.equal(same, stage._encode_visible(other, visible))


def test_training_lowers_the_loss(recipe, play, tmp_path) -> None:
    loop = dataclasses.replace(recipe.encoder.loop, iterations=60, lr=3e-3, decay=0.0)
    train_encoder(dataclasses.replace(recipe.encoder, loop=loop), PlayData.load(play), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_checkpoint_of_another_configuration_is_refused(recipe, play, tmp_path) -> None:
    data = PlayData.load(play)
    train_encoder(recipe.encoder, data, tmp_path)
    with pytest.raises(CheckpointError, match="was made with another configuration"):
        train_encoder(dataclasses.replace(recipe.encoder, batch=5), data, tmp_path)


def test_a_truncated_checkpoint_is_an_error_that_names_it(tmp_path) -> None:
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 not all of it")
    with pytest.raises(CheckpointError, match=r"state\.pt: cannot be read .* delete it to start again"):
        aligned_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="run the stage before this one first"):
        aligned_encoder(tmp_path / "nothing")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(recipe, play, tmp_path) -> None:
    data = PlayData.load(play)
    train_encoder(recipe.encoder, data, tmp_path)
    kept = (tmp_path / "state.pt").read_bytes()
    stage = MaskDenoising(recipe.encoder, data)
    longer = dataclasses.replace(recipe.encoder.loop, iterations=8)
    stage.encoder.layernorm.weight.data.fill_(float("nan"))
    with pytest.raises(PlannerError, match=r"iteration 0: the loss is nan; lower lr"):
        optimise(stage, longer, tmp_path / "other", recipe.encoder, WholeEngine())
    assert (tmp_path / "state.pt").read_bytes() == kept
    assert not (tmp_path / "other" / "state.pt").exists()


def test_folding_scales_keeps_the_function_and_leaves_the_plain_names() -> None:
    config = PredictorConfig(latent_dim=8, dim=12, depth=1, heads=2, grid=(2, 2))
    predictor = scale_inputs(ActionConditionedPredictor(config), InputScales())
    z, states, actions = torch.randn(2, 1, 4, 8), torch.randn(2, 1, 7), torch.randn(2, 1, 7)
    before = predictor(z, states, actions)
    fold_scales(predictor)
    assert torch.allclose(before, predictor(z, states, actions), atol=1e-6)
    assert set(predictor.state_dict()) == set(ActionConditionedPredictor(config).state_dict())


@pytest.mark.parametrize("dim", [8, 12])
def test_a_new_predictor_starts_by_copying_the_latent(dim: int) -> None:
    config = PredictorConfig(latent_dim=8, dim=dim, depth=2, heads=1, grid=(2, 2))
    predictor = start_from_copy(ActionConditionedPredictor(config))
    z = latent_norm(torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        predicted = predictor(z, torch.randn(2, 3, 7), torch.randn(2, 3, 7))
    assert torch.allclose(latent_norm(predicted), z, atol=1e-4)


def test_a_predictor_narrower_than_the_latent_cannot_copy_it() -> None:
    config = PredictorConfig(latent_dim=16, dim=12, depth=1, heads=2, grid=(2, 2))
    with pytest.raises(ConfigError, match="predictor dim: received 12, allowed 16"):
        start_from_copy(ActionConditionedPredictor(config))


def test_rewrapped_rolls_are_the_same_rotations() -> None:
    states = torch.zeros(64, 5, 7, dtype=torch.float64)
    states[..., 3] = 3.1
    other = rewrap_roll(states, torch.Generator().manual_seed(0))
    assert 0 < (other[..., 3] < 0).float().mean() < 0.5
    assert torch.allclose(
        geometry.euler_to_matrix(other[..., 3:6]), geometry.euler_to_matrix(states[..., 3:6]), atol=1e-12
    )


def test_windows_hold_the_actions_between_their_states(play) -> None:
    data = PlayData.load(play)
    batch = data.windows(8, 4, torch.Generator().manual_seed(0), per_episode=2)
    assert batch.images.shape == (16, 4, 32, 32, 3)
    moved = geometry.step(batch.states[:, :-1], batch.actions)
    assert torch.allclose(moved[..., :3], batch.states[:, 1:, :3], atol=1e-6)
    with pytest.raises(InputError, match=r"clip length: received 9, allowed 1 \.\. 6"):
        data.windows(1, 9, torch.Generator())


def test_missing_data_says_how_to_make_some(tmp_path) -> None:
    with pytest.raises(
        InputError,
        match=r"neither play data .*train collect --out .*train import SOURCE --out",
    ):
        PlayData.load(tmp_path)


def test_an_encoder_no_better_than_pixels_is_not_accepted() -> None:
    good = {
        "ranking": 0.9,
        "ranking_pixels": 0.8,
        "ranking_random_encoder": 0.8,
        "one_step": 0.1,
        "copy": 0.2,
        "shuffled": 0.2,
    }
    assert acceptance(good) == []
    assert (
        "no better than raw pixels (ranking 0.700, ranking_pixels 0.800)"
        in acceptance({**good, "ranking": 0.7})[0]
    )
    assert "the action does not help" in acceptance({**good, "shuffled": 0.1})[0]


def test_schedule_warms_up_and_decays() -> None:
    loop = LoopConfig(iterations=100, lr=1.0, warmup=0.1, decay=0.5)
    rates = [loop.rate(i) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == 1.0
    assert rates[99] == pytest.approx(0.02)
    assert sorted(rates[:10]) == rates[:10]


def test_the_shipped_recipe_is_valid() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "config" / "training" / "panda-sim.yaml")
    assert recipe.model.name == "panda-sim"


def test_a_recipe_whose_stages_differ_is_refused(recipe) -> None:
    with pytest.raises(ConfigError, match="encoder: the stages and the model must have the same sizes"):
        dataclasses.replace(
            recipe,
            encoder=dataclasses.replace(
                recipe.encoder, encoder=dataclasses.replace(recipe.encoder.encoder, depth=2)
            ),
        )


def test_a_recipe_may_go_on_from_a_model_and_needs_no_first_stage(recipe, play, tmp_path) -> None:
    torch.manual_seed(0)
    model = recipe.model
    encoder, predictor = FrameEncoder(model.encoder), ActionConditionedPredictor(model.predictor)
    save_model(tmp_path / "old", model, encoder.state_dict(), predictor.state_dict())
    old = str(tmp_path / "old")
    going_on = dataclasses.replace(
        recipe,
        alignment=dataclasses.replace(recipe.alignment, start_from=old),
        predictor=dataclasses.replace(recipe.predictor, start_from=old),
    )
    run = tmp_path / "run"
    run_alignment(going_on, play, play, run)
    run_predictor(going_on, play, play, run)
    figures = run_evaluate(going_on, play, run)
    assert "one_step" in figures and "ranking_masked_encoder" not in figures


def test_a_deeper_model_goes_on_from_what_the_finished_one_computes(recipe) -> None:
    torch.manual_seed(0)
    sizes = recipe.model
    encoder, predictor = FrameEncoder(sizes.encoder), ActionConditionedPredictor(sizes.predictor)
    pixels, z = torch.randn(2, 3, 32, 32), torch.randn(2, 2, 4, 24)
    states, actions = torch.randn(2, 2, 7), torch.randn(2, 2, 7)
    deeper = FrameEncoder(dataclasses.replace(sizes.encoder, depth=3))
    further = ActionConditionedPredictor(dataclasses.replace(sizes.predictor, depth=2))
    before = deeper(pixels)
    load_grown(deeper, encoder.state_dict())
    load_grown(further, predictor.state_dict())
    assert not torch.allclose(before, encoder(pixels), atol=1e-2)
    assert torch.equal(deeper(pixels), encoder(pixels))
    assert torch.equal(further(z, states, actions), predictor(z, states, actions))
    further(z, states, actions).square().sum().backward()
    assert further.blocks[1].mlp.down.weight.grad.abs().max() > 0  # it can learn from there


def test_a_model_of_other_sizes_is_no_start(recipe) -> None:
    small = FrameEncoder(recipe.model.encoder)
    with pytest.raises(ConfigError, match=r"vit\.embeddings.* is \(24,\) there and \(48,\) here"):
        load_grown(FrameEncoder(dataclasses.replace(recipe.model.encoder, dim=48)), small.state_dict())
    deeper = FrameEncoder(dataclasses.replace(recipe.model.encoder, depth=2))
    with pytest.raises(ConfigError, match=r"layer\.1\..* and missing here; .* as deep or less deep"):
        load_grown(small, deeper.state_dict())


@pytest.mark.parametrize("frozen", ["chance", "encoder"])
def test_the_encoder_of_an_earlier_stage_may_be_frozen_to_compare(recipe, play, tmp_path, frozen) -> None:
    compared, run = dataclasses.replace(recipe, frozen=frozen), tmp_path / "run"
    with pytest.raises(CheckpointError):
        frozen_encoder(recipe, run)
    if frozen == "encoder":
        run_encoder(compared, play, run)
    run_predictor(compared, play, play, run)
    figures = run_evaluate(compared, play, run)
    assert ("ranking_masked_encoder" in figures) == (frozen == "encoder")
    same, other = (frozen_encoder(compared, run).vit.state_dict() for _ in range(2))
    assert all(torch.equal(same[name], other[name]) for name in same)  # chance is the same twice
    if frozen == "chance":
        assert figures["ranking"] == figures["ranking_random_encoder"]
    bad = {**figures, "ranking": 0.0}
    predictor = trained_predictor(recipe.predictor, run / "predictor")
    parts = (compared.model, frozen_encoder(compared, run), predictor, bad)
    with pytest.raises(CheckpointError, match="not exported"):
        export_model(tmp_path / "refused", *parts)
    export_model(tmp_path / "forced", *parts, force=True)
    assert (tmp_path / "forced" / "model.safetensors").exists() and not (tmp_path / "refused").exists()


def test_alignment_may_start_from_chance(recipe, play, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="run the stage before this one first"):
        run_alignment(recipe, play, play, tmp_path)
    alone = dataclasses.replace(recipe, alignment=dataclasses.replace(recipe.alignment, pretrained=False))
    run_alignment(alone, play, play, tmp_path)
    torch.manual_seed(recipe.alignment.loop.seed)
    chance = FrameEncoder(recipe.model.encoder).state_dict()
    trained = frozen_encoder(alone, tmp_path).state_dict()
    change = max((trained[name] - chance[name]).abs().max() for name in chance)
    assert 0 < change < 0.1  # four small steps away from it


def test_training_may_be_limited_to_the_first_episodes(recipe, play, tmp_path) -> None:
    last = play / "shard-00001-states.npy"
    np.save(last, np.full_like(np.load(last), np.nan))  # the fourth episode
    with pytest.raises(InputError, match="some states are not finite"):
        run_encoder(recipe, play, tmp_path / "all")
    run_encoder(dataclasses.replace(recipe, episodes=3), play, tmp_path / "some")
    with pytest.raises(ConfigError, match="episodes: received 0"):
        dataclasses.replace(recipe, episodes=0)


def test_images_may_be_larger_than_the_models_but_not_smaller(recipe, play, tmp_path) -> None:
    def sized(size: int) -> Recipe:
        encoder = dataclasses.replace(recipe.model.encoder, image_size=size, patch_size=size // 2)
        return dataclasses.replace(
            recipe,
            model=dataclasses.replace(recipe.model, encoder=encoder),
            encoder=dataclasses.replace(recipe.encoder, encoder=encoder),
            alignment=dataclasses.replace(recipe.alignment, encoder=encoder),
        )

    run_encoder(sized(16), play, tmp_path / "smaller")
    with pytest.raises(InputError, match="holds images of 32x32 pixels, the model takes 64x64"):
        run_encoder(sized(64), play, tmp_path / "larger")
