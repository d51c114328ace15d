"""Figures of merit, on features whose answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from vjepa_ac_planner.training import evaluate
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.evaluate import encoder_figures, probe_error, ranking
from vjepa_ac_planner.training.export import acceptance


def test_ranking_is_perfect_for_positions_and_poor_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(20, 12, 3, generator=generator)
    line = positions[..., :1].expand(-1, -1, 3)  # L1 and Euclidean distance agree on a line
    assert ranking(line, line) == pytest.approx(1.0, abs=1e-6)
    assert abs(ranking(torch.rand(20, 12, 30, generator=generator), positions)) < 0.2


def test_ranking_leaves_out_episodes_that_stand_still() -> None:
    positions = torch.zeros(2, 5, 3)
    positions[0, :, 0] = torch.linspace(0, 1, 5)
    features = torch.zeros(2, 5, 1)
    features[0, :, 0] = positions[0, :, 0]
    assert ranking(features, positions) == pytest.approx(1.0)


def test_features_that_are_all_alike_rank_nothing() -> None:
    positions = torch.linspace(0, 1, 8)[None, :, None].expand(1, 8, 3)
    assert ranking(torch.zeros(1, 8, 4), positions) == 0.0


def test_what_cannot_be_told_is_no_number(monkeypatch, moving_square) -> None:
    """Arms that move less than 5 cm rank nothing, and one episode is not enough for a probe and a test."""
    still = torch.full((3, 8, 3), 0.3)
    assert math.isnan(ranking(torch.randn(3, 8, 5), still))
    images, states = moving_square(8)
    one = PlayData(images[None].numpy(), states[None].numpy())
    one.states[..., :3] = 0.3
    monkeypatch.setattr(evaluate, "encode_frames", lambda encoder, data: torch.randn(1, 8, 2, 4))
    figures, latents = encoder_figures(SimpleNamespace(train=lambda: None), one)
    assert figures == {} and latents.shape == (1, 8, 2, 4)
    (refused,) = acceptance({"one_step": 0.1, "copy": 0.2, "shuffled": 0.2})
    assert "no held-out arm moves 5 cm" in refused


def test_probe_reads_linear_features_and_not_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(20, 10, 3, generator=generator)
    mixed = positions @ torch.randn(3, 40, generator=generator)
    assert probe_error(mixed, positions, 10) < 0.01
    assert probe_error(torch.randn(20, 10, 40, generator=generator), positions, 10) > 0.2
