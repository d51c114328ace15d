"""What all tests share: the golden numbers, the golden model, and which tests go by the clock."""

from __future__ import annotations

import functools
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core; read when numpy and torch are imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
from stalls import MachineStalled, UnsafeCommand, Witness

DATA = Path(__file__).parent / "data"

# Machines are shared and slow at times, so no example has a time limit. Continuous integration draws the
# same examples every time: a change is judged by what it changed. At a desk new ones are tried.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")

BY_THE_CLOCK = ("test/ros/", "test/cli/test_cli_ros.py")
"""Tests of processes that must answer in time."""

RERUNS = 2
"""Of one of them that failed while the machine stood still."""


def pytest_collection_modifyitems(items):
    """Tests that go by the clock are told apart, so that nothing else need run beside them."""
    for item in items:
        if item.nodeid.startswith(BY_THE_CLOCK):
            item.add_marker(pytest.mark.clock)
            item.add_marker(pytest.mark.flaky(reruns=RERUNS, only_rerun=MachineStalled.__name__))


witness = functools.cache(Witness)


def witnessed(item):
    """Run a part of a test; what fails while the machine stood still fails as :class:`MachineStalled`."""
    if item.get_closest_marker("clock") is None:
        return (yield)
    mark = witness().mark()
    try:
        return (yield)
    except UnsafeCommand:
        raise
    except Exception as error:
        stalls = witness().since(mark)
        if not stalls:
            raise
        text = f"the machine stood still {len(stalls)} times, for up to {max(stalls):.2f} s"
        raise MachineStalled(f"{text}: {error}") from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from witnessed(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from witnessed(item))


@pytest.fixture(scope="session")
def golden():
    """Numbers computed by the reference implementation, by name."""
    with np.load(DATA / "golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def mini_model():
    """The model behind the golden numbers: published layout, small random weights, float32 on the CPU."""
    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn import checkpoint
    from vjepa_ac_planner.nn.encoder import EncoderConfig
    from vjepa_ac_planner.nn.predictor import PredictorConfig
    from vjepa_ac_planner.world_model import WorldModel, choose_device

    path = DATA / "mini-ac.pt"
    description = ModelDescription(
        name="mini-ac",
        summary="Small random weights in the published layout.",
        encoder=EncoderConfig(image_size=64, dim=128, depth=2, heads=2),
        predictor=PredictorConfig(latent_dim=128, dim=128, depth=2, heads=2, grid=(4, 4)),
        workspace=((0.3, -0.3, 0.1), (0.7, 0.3, 0.6)),
    )
    device = choose_device("cpu")
    weights = checkpoint.read_weights(path)
    import torch

    modules = checkpoint.load(
        weights, description.encoder, description.predictor, device, torch.float32, str(path)
    )
    return WorldModel(description, *modules)
