"""Realignment: the encoder learns another view in terms that its predictor knows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vjepa_ac_planner.errors import CheckpointError, ConfigError, InputError
from vjepa_ac_planner.training.alignment import AlignmentTraining, ExpectedDirections
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.dataset import Dataset, write_dataset_shard
from vjepa_ac_planner.training.logs import read_metrics
from vjepa_ac_planner.training.realign import realign, realignment
from vjepa_ac_planner.world_model import WorldModel

LOOP = {"iterations": 3, "log_every": 1}


@pytest.fixture
def recordings(tmp_path, moving_square) -> Path:
    """Imported training data: six recordings of 32 frames, which are two pieces."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(6):
        images, states = moving_square(32, number)
        about = {"recording": f"run{number}", "origin": f"/{number}", "part": "0", "step_seconds": "0.25"}
        write_dataset_shard(folder / f"run{number}.safetensors", about, images, states, [32])
    return folder


@pytest.mark.parametrize("directions", ["learned", "predictor"])
def test_the_encoder_changes_and_the_predictor_stays(recordings, tiny_model, tmp_path, directions) -> None:
    options = {"episodes": 2, "frames": 2, "directions": directions, "loop": LOOP}
    config, out = realignment(str(tiny_model), options, "test"), tmp_path / "aligned"
    before, after = realign(config, recordings, tmp_path / "run", out)
    assert set(before) == set(after) > {"ranking", "probe_m", "one_step", "copy", "rollout"}
    assert all(before[name] != after[name] for name in ("probe_m", "one_step", "copy"))
    assert all(math.isfinite(value) for value in after.values())
    base, made = (WorldModel.load(path, device="cpu", dtype="float32") for path in (tiny_model, out))
    old, new = base.encoder.state_dict(), made.encoder.state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    for name, value in base.predictor.state_dict().items():
        assert torch.equal(value, made.predictor.state_dict()[name])


def test_what_is_held_out_of_imported_data_is_what_finetuning_holds_out(recordings) -> None:
    train, test = PlayData.load_split(recordings, 0.3)
    kept_back = Dataset.open(recordings).split(0.3)[1]
    assert len(train) + len(test) == 12 and len(test) == 2 * len(kept_back.episodes)
    assert torch.equal(test.states, torch.cat([e.states.unflatten(0, (2, 16)) for e in kept_back.episodes]))


def test_short_episodes_do_not_move_what_is_held_out(tmp_path, moving_square) -> None:
    """Fine-tuning uses episodes that are too short for realignment, which must not divide without them."""
    for number in range(12):
        images, states = moving_square(20, number)
        about = {"recording": f"run{number}", "origin": f"/{number}", "part": "0", "step_seconds": "0.25"}
        write_dataset_shard(tmp_path / f"run{number}.safetensors", about, images, states, [20])
    kept_back = Dataset.open(tmp_path).split(0.0)[1].recordings
    for name in kept_back:  # the lowest of all, which another would be if it were left out first
        number = int(name.removeprefix("run"))
        images, states = moving_square(4, number)
        about = {"recording": name, "origin": f"/{number}", "part": "0", "step_seconds": "0.25"}
        write_dataset_shard(tmp_path / f"{name}.safetensors", about, images, states, [4])
    assert Dataset.open(tmp_path).split(0.0)[1].recordings == kept_back
    with pytest.raises(InputError, match=r"none of the 1 episodes to judge by has 16 frames.*--test"):
        PlayData.load_split(tmp_path, 0.0)


def test_a_run_does_not_go_on_with_other_data(recordings, tiny_model, tmp_path, moving_square) -> None:
    """With more recordings others may be held out: it would be judged by what it has been trained on."""
    config = realignment(str(tiny_model), {"episodes": 2, "frames": 2, "loop": LOOP}, "test")
    realign(config, recordings, tmp_path / "run", tmp_path / "out")
    realign(config, recordings, tmp_path / "run", tmp_path / "out")
    images, states = moving_square(20, 6)
    about = {"recording": "run6", "origin": "/6", "part": "0", "step_seconds": "0.25"}
    write_dataset_shard(recordings / "run6.safetensors", about, images, states, [20])
    with pytest.raises(CheckpointError, match=r"another configuration \(data\)"):
        realign(config, recordings, tmp_path / "run", tmp_path / "out")


def test_other_recordings_judge_when_they_are_named(
    recordings, tiny_model, tmp_path, moving_square
) -> None:
    images, states = (
        torch.stack(parts) for parts in zip(*(moving_square(8, s) for s in range(50, 54)), strict=True)
    )
    others = tmp_path / "others"
    others.mkdir()
    np.save(others / "shard-00000-images.npy", images.numpy())
    np.save(others / "shard-00000-states.npy", states.numpy())
    config = realignment(str(tiny_model), {"episodes": 2, "loop": LOOP}, "test")
    _, own = realign(config, recordings, tmp_path / "a", tmp_path / "out-a")
    _, named = realign(config, recordings, tmp_path / "b", tmp_path / "out-b", others)
    assert own != named
    last = [line for line in read_metrics(tmp_path / "b") if "held_out" in line][-1]
    assert last["held_out"] == pytest.approx(named)


def test_too_little_or_wrongly_sized_data_are_refused(
    recordings, tiny_model, tmp_path, moving_square
) -> None:
    config = realignment(str(tiny_model), {"episodes": 2, "loop": LOOP}, "test")
    images, states = moving_square(8)
    np.save(tmp_path / "shard-00000-images.npy", images[None].numpy())
    np.save(tmp_path / "shard-00000-states.npy", states[None].numpy())
    with pytest.raises(InputError, match="1 episode, too few"):
        realign(config, tmp_path, tmp_path / "x", tmp_path / "y")
    np.save(tmp_path / "shard-00000-images.npy", images[None, :, ::2, ::2].numpy())
    with pytest.raises(InputError, match=r"holds frames of 16 pixels, model 'tiny' takes 32"):
        realign(config, recordings, tmp_path / "x", tmp_path / "y", tmp_path)


def test_directions_are_what_the_predictor_makes_of_a_motion(tiny_model, recordings) -> None:
    class Shift(nn.Module):
        """Moves channel 0 of the latent by x and channel 1 against y, whatever it sees."""

        def forward(self, z: torch.Tensor, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            moved = z.clone()
            moved[..., 0] += 2.0 * actions[..., None, 0]
            moved[..., 1] -= 3.0 * actions[..., None, 1]
            return moved

    model = WorldModel.load(tiny_model, device="cpu", dtype="float32")
    config = AlignmentTraining(model.description.encoder)
    play, asked = PlayData.load(recordings), SimpleNamespace(encode=model.encode, predictor=Shift())
    directions = ExpectedDirections(asked, play, config, seed=0)()
    # A motion of 1 m is 10 scaled units; the normalisation that follows leaves nearly all of it.
    assert directions[0, :, 0].mean() == pytest.approx(0.2, rel=0.2)
    assert directions[1, :, 1].mean() == pytest.approx(-0.3, rel=0.2)
    assert directions[:2, :, 2:].abs().mean() < 0.02
    assert (directions[2:] == 0).all()  # the square never moved along those axes
    assert list(ExpectedDirections(asked, play, config, seed=0).parameters()) == []


def test_directions_of_no_predictor_are_refused(tiny_model) -> None:
    model = WorldModel.load(tiny_model, device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="directions: received 'predictor' without start_from"):
        AlignmentTraining(model.description.encoder, directions="predictor")
    with pytest.raises(ConfigError, match="unknown"):
        realignment(str(tiny_model), {"directions": "predictor", "frame": 3}, "test")
    config = realignment(str(tiny_model), {"directions": "predictor"}, "test")
    assert Path(config.start_from or "").is_dir()
    with pytest.raises(ConfigError):
        dataclasses.replace(config, start_from=None)
