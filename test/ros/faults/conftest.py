"""Faults across processes: one planner process and one robot for all tests that can share them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stalls import UnsafeCommand


@pytest.fixture(scope="session", autouse=True)
def unsafe() -> Iterator[None]:
    """What was seen in a test that was run again is a failure as well."""
    yield
    assert not UnsafeCommand.seen


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile ``sim`` with a small model, slow limits, and a gripper that is none."""
    from fault_rig import write_profile

    return write_profile(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="session")
def shared(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A robot and a planner process, started once."""
    from fault_rig import Rig

    rig = Rig(profile, tmp_path_factory.mktemp("planner"))
    try:
        rig.start()
        yield rig
        rig.planner.end()
    finally:
        rig.close()


@pytest.fixture
def rig(shared: Any) -> Iterator[Any]:
    """The shared rig without any fault, disabled; what was sent during the test is checked at its end."""
    shared.prepare()
    yield from checked(shared)


@pytest.fixture
def running(shared: Any) -> Iterator[Any]:
    """The same with the arm in motion."""
    shared.heal()
    shared.run()
    yield from checked(shared)


def checked(rig: Any) -> Iterator[Any]:
    begin = rig.robot.clock()
    yield rig
    rig.robot.heal()
    rig.check_commands(begin)
