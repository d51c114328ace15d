"""Probes: they read what latents hold, say when a goal is reached, and come back from disk the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_ac_planner.errors import CheckpointError, ConfigError
from vjepa_ac_planner.training.loop import LoopConfig
from vjepa_ac_planner.training.probe import (
    DoneOrNot,
    ProbeConfig,
    ReadOut,
    TaskDone,
    draw_pairs,
    load_probe,
    pair,
    same_outcome,
    train_probe,
)
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

CONFIG = ProbeConfig(
    dim=24, depth=2, heads=2, batch=32, loop=LoopConfig(iterations=150, lr=3e-3, checkpoint_every=1000)
)


def test_a_probe_reads_a_number_that_one_token_holds(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 4, 8, generator=generator)
    targets = torch.stack([latents[:, 2, 5], torch.full((600,), torch.nan)], dim=1)
    targets[:300, 1] = 5.0 + latents[:300, 0, 0]  # unknown for half of the frames
    probe = train_probe(ReadOut(CONFIG, latents[:500], targets[:500]), tmp_path)
    with torch.no_grad():
        error = (probe(latents[500:]) - targets[500:]).abs().mean(dim=0)[0]
    assert error < 0.35 * targets[500:, 0].std()

    again = load_probe(tmp_path / "probe.safetensors")
    with torch.no_grad():
        assert torch.equal(again(latents[:5]), probe(latents[:5]))


def test_outcomes_are_the_same_when_hand_fingers_and_objects_are() -> None:
    states = torch.zeros(1, 5, 7)
    objects = torch.zeros(1, 5, 2, 3)
    states[0, 1, 0] = 0.03
    states[0, 2, 6] = 0.4
    objects[0, 3, 1, 2] = 0.05
    done = same_outcome(states, objects)[0]
    assert done[0].tolist() == [True, False, False, False, True]
    assert torch.equal(done, done.T)


def test_pairs_are_of_one_episode_and_often_near() -> None:
    episode, frame, goal = draw_pairs((3, 17), 500, torch.Generator().manual_seed(0))
    assert episode.max() == 2 and frame.max() == goal.max() == 16 and min(frame.min(), goal.min()) == 0
    assert ((frame - goal).abs() <= 3).float().mean() > 0.5


def test_the_classifier_tells_reached_goals_from_others(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(80, 10, generator=generator)
    latents = torch.randn(80, 1, 4, 8, generator=generator).repeat(1, 10, 1, 1)  # the scene
    latents[..., 1, 0] = 3 * place
    done = (place[:, :, None] - place[:, None]).abs() < 0.1
    config = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, iterations=300))
    probe = train_probe(DoneOrNot(config, latents[:60], done[:60]), tmp_path)
    episode, frame, goal = draw_pairs((20, 10), 400, generator)
    with torch.no_grad():
        answer = probe(pair(latents[60:][episode, frame], latents[60:][episode, goal])).squeeze(1) > 0
    wanted = done[60:][episode, frame, goal]
    assert (answer[wanted]).float().mean() > 0.8
    assert (~answer[~wanted]).float().mean() > 0.8


def test_task_done_is_a_stop_condition(mini_model) -> None:
    """Any classifier: the frame that is the goal differs by nothing from it, others do."""
    tokens, dim = 2 * 16, mini_model.description.encoder.dim

    class Same(torch.nn.Module):
        sizes = (tokens, dim, 1)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            assert z.shape == (1, tokens, dim)
            return 10.0 - 1000.0 * z[:, : tokens // 2].abs().mean(dim=(1, 2))[:, None]

    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    done = TaskDone(mini_model, Same(), Goal(Frame(images[0]), "there"))
    state = RobotState(np.zeros(7))
    assert done(Observation(Frame(images[0]), state))
    assert not done(Observation(Frame(images[1]), state))
    with pytest.raises(ConfigError, match="threshold: received 2"):
        TaskDone(mini_model, Same(), Goal(Frame(images[0]), "there"), threshold=2.0)


def test_a_file_that_is_no_probe_is_an_error_that_says_so(tmp_path: Path) -> None:
    from vjepa_ac_planner.nn.storage import StoredTensor, write_safetensors

    path = tmp_path / "other.safetensors"
    write_safetensors(path, {"x": StoredTensor.of(torch.zeros(2))}, torch.float32, {})
    with pytest.raises(CheckpointError, match="is no attentive probe"):
        load_probe(path)


def test_sizes_must_fit() -> None:
    with pytest.raises(ConfigError, match="dim: received 25, allowed are multiples of heads"):
        ProbeConfig(dim=25, heads=3)
