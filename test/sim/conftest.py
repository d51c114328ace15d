from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.randomise import PLAIN

FAST = SimConfig(width=64, height=64, faces=2000, shadow_size=0)
"""Tests of physics and formats do not look at the picture."""


class Skipped(pytest.Module):
    """A test file that is not even imported."""

    def collect(self) -> NoReturn:
        pytest.skip("needs the sim extra: pip install 'vjepa_ac_planner[sim]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
    """Without the simulator, skip every file of this folder and say why."""
    # Not importorskip: mujoco must be imported by the package, which chooses the GL backend first.
    missing = find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None
    return Skipped.from_parent(parent, path=module_path) if missing else None


@pytest.fixture(scope="session")
def shared_sim() -> Iterator[PandaSim]:
    with PandaSim(FAST) as sim:
        yield sim


@pytest.fixture
def sim(shared_sim: PandaSim) -> PandaSim:
    shared_sim.dress(PLAIN)  # a task before this one may have left another look
    shared_sim.reset(0)
    return shared_sim
