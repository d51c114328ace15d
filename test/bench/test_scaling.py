"""Speed against image tokens and threads: what is measured, not how fast it is."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.bench import scaling
from vjepa_ac_planner.bench.models import Models
from vjepa_ac_planner.bench.timing import Budget


@pytest.fixture(scope="module")
def models(folder):
    return Models(folder, device="cpu", dtype="float32", compile=None, untrained=False)


@pytest.fixture
def budget(clock):
    """A second on a clock that goes on by a millisecond whenever it is read."""

    def ticking() -> float:
        clock.now += 1e-3
        return clock.now

    return Budget(1.0, ticking)


def test_other_numbers_of_image_tokens(models, budget):
    rows = scaling.by_tokens(models, (1, 3), 1e9, budget)
    assert [row["tokens"] for row in rows] == [1, 9]


def test_threads_are_counted_up_and_put_back(models, budget):
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        rows = scaling.by_threads(models, budget)
        assert [row["threads"] for row in rows] == [1, 2, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)
