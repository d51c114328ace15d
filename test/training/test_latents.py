"""The cache of latents: made once, found again, never taken for another encoder's, verified on reading."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.storage import remove_stale
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset
from vjepa_ac_planner.training.latents import LatentCache, encoder_key
from vjepa_ac_planner.training.shards import Shard
from vjepa_ac_planner.world_model import WorldModel


@pytest.fixture
def encoder(tiny_model):
    return WorldModel.load(tiny_model, device="cpu", dtype="float32").encoder


@pytest.fixture
def cache(encoder, tmp_path):
    return LatentCache(tmp_path / "cache", encoder_key(encoder))


def test_latents_are_those_of_the_frames(dataset_folder, encoder, cache) -> None:
    data = Dataset.open(dataset_folder)
    assert cache.missing_frames(data) == 26
    report = cache.fill(data, encoder, batch=4)
    assert (report.encoded_frames, report.reused_frames) == (26, 0)
    index = ClipIndex(data, 5)
    chosen = index.spread(3)
    clips = cache.open(data).clips(index, chosen)
    assert clips.dtype == torch.float16
    for clip, (episode, first) in zip(clips, chosen, strict=True):
        start = episode.start + first
        images = data.shards[episode.shard].rows("images", start, start + 5)
        assert torch.allclose(clip.float(), encoder(preprocess(images, 32)), atol=2e-3)


def test_what_is_cached_is_not_encoded_again(dataset_folder, encoder, cache) -> None:
    data = Dataset.open(dataset_folder)
    cache.fill(data, encoder)
    cache.path(data.shards[1]).unlink()
    before = cache.path(data.shards[0]).stat().st_mtime_ns
    report = cache.fill(data, encoder)
    assert (report.encoded_frames, report.reused_frames) == (9, 17)
    assert cache.path(data.shards[0]).stat().st_mtime_ns == before


def test_a_damaged_file_is_made_again(dataset_folder, encoder, cache) -> None:
    data = Dataset.open(dataset_folder)
    cache.fill(data, encoder)
    path = cache.path(data.shards[0])
    good = Shard(path).read("latents").clone()
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    report = cache.fill(data, encoder)
    assert (report.damaged_files, report.encoded_frames) == (1, 10)
    assert torch.equal(Shard(path).read("latents"), good)


def test_another_encoder_or_precision_finds_none(dataset_folder, encoder, cache, tmp_path) -> None:
    data = Dataset.open(dataset_folder)
    cache.fill(data, encoder)
    key = encoder_key(encoder)
    assert key == encoder_key(encoder)
    keys = {key, encoder_key(encoder.to(torch.bfloat16))}
    encoder.float()
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    keys.add(encoder_key(encoder))
    assert len(keys) == 3
    assert LatentCache(tmp_path / "cache", encoder_key(encoder)).missing_frames(data) == 26


def test_bfloat16_encoders_are_cached_in_bfloat16(dataset_folder, encoder, tmp_path) -> None:
    data = Dataset.open(dataset_folder)
    encoder.to(torch.bfloat16)
    cache = LatentCache(tmp_path / "cache", encoder_key(encoder))
    cache.fill(data, encoder)
    assert cache.open(data).clip(data.episodes[0], 0, 2).dtype == torch.bfloat16


def test_several_processes_share_the_work(dataset_folder, encoder, cache) -> None:
    data = Dataset.open(dataset_folder)
    done = [cache.fill(data, encoder, rank=rank, processes=2).encoded_frames for rank in range(2)]
    assert done == [10 + 7, 9]
    assert cache.missing_frames(data) == 0


def test_latents_that_are_missing_are_an_error(dataset_folder, cache) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        cache.open(Dataset.open(dataset_folder))


def test_frames_of_another_size_are_refused(dataset_folder, encoder, cache) -> None:
    data = Dataset.open(dataset_folder)
    data.image_size = 64
    with pytest.raises(InputError, match="frames of 64 pixels, the model takes 32"):
        cache.fill(data, encoder)


KILLED = """
import os, signal, sys
from pathlib import Path
from vjepa_ac_planner.training import latents, shards
from vjepa_ac_planner.training.dataset import Dataset
from vjepa_ac_planner.world_model import WorldModel

encoder = WorldModel.load(sys.argv[1], device="cpu", dtype="float32").encoder
written = []
def die(handle):  # in the middle of the second file: its bytes are there, its name is not
    written.append(handle)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
cache = latents.LatentCache(Path(sys.argv[3]), latents.encoder_key(encoder))
cache.fill(Dataset.open(sys.argv[2]), encoder)
"""


@pytest.mark.slow
def test_a_kill_loses_the_shard_at_hand_and_nothing_else(
    dataset_folder, encoder, cache, tiny_model, tmp_path
) -> None:
    arguments = [str(tiny_model), str(dataset_folder), str(tmp_path / "cache")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    data = Dataset.open(dataset_folder)
    (left,) = cache.folder.glob(".*.tmp")
    assert [cache.path(shard).exists() for shard in data.shards] == [True, False, False]
    report = cache.fill(data, encoder)
    assert (report.reused_frames, report.encoded_frames) == (10, 16)
    assert left.exists()  # it might be another process's that is at work
    os.utime(left, (0, 0))
    remove_stale(Path(cache.folder))
    assert not left.exists()
