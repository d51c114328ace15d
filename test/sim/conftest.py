from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from vjepa_ac_planner.sim.panda import PandaSim, SimConfig

# Not importorskip: mujoco must be imported by the package, which chooses the GL backend first.
if find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None:
    collect_ignore_glob = ["test_*.py"]

FAST = SimConfig(width=64, height=64, faces=2000, shadow_size=0)
"""Tests of physics and formats do not look at the picture."""


@pytest.fixture(scope="session")
def shared_sim() -> Iterator[PandaSim]:
    with PandaSim(FAST) as sim:
        yield sim


@pytest.fixture
def sim(shared_sim: PandaSim) -> PandaSim:
    shared_sim.reset(0)
    return shared_sim
