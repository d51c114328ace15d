"""The training format: what is written is read, what is damaged is skipped and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset, write_dataset_shard


def flip_byte(path, from_end: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[-from_end] ^= 0xFF
    path.write_bytes(content)


def test_episodes_hold_what_was_written(dataset_folder, moving_square) -> None:
    data = Dataset.open(dataset_folder)
    assert [len(e) for e in data.episodes] == [6, 4, 9, 7]
    assert data.recordings == ["run0", "run1", "run2"]
    assert (data.frames, data.image_size, data.step_seconds) == (26, 32, 0.25)
    second = data.episodes[1]
    images, states = moving_square(4, 1)
    assert torch.equal(second.states, states)
    assert torch.equal(data.shards[second.shard].rows("images", second.start, second.start + 4), images)
    moved = geometry.step(second.states[:-1], second.actions)
    assert torch.allclose(moved[:, :3], second.states[1:, :3], atol=1e-6)


def test_a_damaged_shard_is_skipped_and_counted(dataset_folder) -> None:
    flip_byte(dataset_folder / "run0.safetensors")
    (dataset_folder / "run1.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 cut short")
    data = Dataset.open(dataset_folder)
    assert data.recordings == ["run2"]
    assert data.skipped == {"unusable shard run0.safetensors": 1, "unusable shard run1.safetensors": 1}


def test_nothing_usable_is_an_error_that_says_why(dataset_folder, tmp_path) -> None:
    for path in dataset_folder.glob("*.safetensors"):
        flip_byte(path)
    with pytest.raises(InputError, match=r"no usable episode in 3 shards: .*first problem: .*is damaged"):
        Dataset.open(dataset_folder)
    with pytest.raises(InputError, match="vjepa-ac train import SOURCE --out"):
        Dataset.open(tmp_path / "nothing")


def test_a_shard_of_another_size_is_skipped(dataset_folder) -> None:
    about = {"recording": "other", "origin": "/other", "part": "0", "step_seconds": "0.25"}
    images = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)
    write_dataset_shard(dataset_folder / "other.safetensors", about, images, torch.zeros(5, 7), [5])
    data = Dataset.open(dataset_folder)
    assert data.image_size == 32
    assert data.skipped == {"shard of another size or pace (16 pixels, 0.25 s)": 1}


def test_states_that_are_not_finite_are_refused_with_their_shard(dataset_folder) -> None:
    about = {"recording": "bad", "origin": "/bad", "part": "0", "step_seconds": "0.25"}
    states = torch.full((5, 7), float("nan"))
    images = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    write_dataset_shard(dataset_folder / "bad.safetensors", about, images, states, [5])
    assert Dataset.open(dataset_folder).skipped == {"unusable shard bad.safetensors": 1}


def test_short_episodes_are_skipped_and_counted(dataset_folder) -> None:
    data = Dataset.open(dataset_folder, min_frames=7)
    assert [len(e) for e in data.episodes] == [9, 7]
    assert data.skipped == {"episode shorter than 7 frames": 2}
    assert data.episodes[0].shard == 0  # shards without an episode are left out
    assert data.shards[0].about["recording"] == "run1"


def test_every_clip_is_found_once(dataset_folder) -> None:
    index = ClipIndex(Dataset.open(dataset_folder), 5)
    found = [(episode.name, first) for episode, first in map(index.__getitem__, range(len(index)))]
    lengths = {"run0#0": 6, "run1#0": 9, "run2#0": 7}
    assert found == [(name, first) for name, length in lengths.items() for first in range(length - 4)]
    assert index.too_short == 1
    drawn = index.draw(200, torch.Generator().manual_seed(0))
    assert {(episode.name, first) for episode, first in drawn} == set(found)
    with pytest.raises(
        InputError, match=r"clips of 10 frames are asked for, the longest of 4 episodes has 9"
    ):
        ClipIndex(Dataset.open(dataset_folder), 10)


def test_what_is_held_out_stays_held_out_when_data_are_added(tmp_path, moving_square) -> None:
    def add(number: int) -> None:
        images, states = moving_square(4, number)
        about = {
            "recording": f"r{number}",
            "origin": f"/r{number}",
            "part": "0",
            "step_seconds": "0.25",
        }
        write_dataset_shard(tmp_path / f"r{number:02d}.safetensors", about, images, states, [4])

    for number in range(20):
        add(number)
    train, test = Dataset.open(tmp_path).split(0.2)
    assert set(train.recordings) | set(test.recordings) == {f"r{i}" for i in range(20)}
    assert not set(train.recordings) & set(test.recordings)
    assert 1 <= len(test.recordings) <= 8
    for number in range(20, 30):
        add(number)
    more_train, more_test = Dataset.open(tmp_path).split(0.2)
    assert set(train.recordings) <= set(more_train.recordings)
    assert set(test.recordings) <= set(more_test.recordings)


@pytest.mark.parametrize("held_out", [0.0, 0.1, 0.3])
def test_what_was_trained_on_never_judges(tmp_path, moving_square, held_out) -> None:
    """From two recordings on, and through any number at which the rules might change."""
    images, states = moving_square(8)
    trained: set[str] = set()
    for number in range(14):
        about = {"recording": f"r{number}", "origin": f"/{number}", "part": "0", "step_seconds": "0.25"}
        write_dataset_shard(tmp_path / f"r{number:02d}.safetensors", about, images, states, [4, 4])
        if number == 0:
            continue
        train, test = Dataset.open(tmp_path).split(held_out)
        assert train.episodes and test.episodes
        assert not set(train.recordings) & set(test.recordings)
        assert not trained & set(test.recordings)
        trained = set(train.recordings)


def test_a_single_recording_is_divided_by_its_episodes(tmp_path, moving_square) -> None:
    images, states = moving_square(24)
    about = {"recording": "only", "origin": "/only", "part": "0", "step_seconds": "0.25"}
    write_dataset_shard(tmp_path / "only.safetensors", about, images, states, [4] * 6)
    train, test = Dataset.open(tmp_path).split(0.2)
    assert train.episodes and test.episodes and len(train.episodes) + len(test.episodes) == 6


def test_a_single_episode_cannot_be_divided(tmp_path, moving_square) -> None:
    images, states = moving_square(6)
    about = {"recording": "only", "origin": "/only", "part": "0", "step_seconds": "0.25"}
    write_dataset_shard(tmp_path / "only.safetensors", about, images, states, [6])
    with pytest.raises(InputError, match=r"nothing can be held out .* \(--test\)"):
        Dataset.open(tmp_path).split(0.1)


def test_play_data_of_a_collection_that_was_killed_are_refused(tmp_path) -> None:
    np.save(tmp_path / "shard-00000-images.npy", np.zeros((2, 4, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"shard-00000-images\.npy: .*collect again with the same command"):
        PlayData.load(tmp_path)
    np.save(tmp_path / "shard-00000-states.npy", np.zeros((1, 4, 7), np.float32))
    with pytest.raises(InputError, match=r"shard-00000-images\.npy: holds 2 episodes, its states 1"):
        PlayData.load(tmp_path)


def test_the_stages_read_the_training_format_too(tmp_path, moving_square) -> None:
    images, states = moving_square(40)
    about = {"recording": "long", "origin": "/long", "part": "0", "step_seconds": "0.25"}
    write_dataset_shard(tmp_path / "long.safetensors", about, images, states, [35, 5])
    play = PlayData.load(tmp_path)
    assert play.images.shape == (2, 16, 32, 32, 3)
    assert torch.equal(play.images[1], images[16:32])
    assert torch.equal(play.states[1], states[16:32])
