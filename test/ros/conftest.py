"""ROS tests: real rclpy over real Fast DDS, each test process alone in a domain of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ros_domains import own_domain

try:
    import rclpy
except ImportError as error:  # its shared libraries may be what is missing
    rclpy = None
    MISSING = (
        f"rclpy cannot be imported ({error}): pip install 'vjepa_ac_planner[ros]', or source a ROS setup"
    )


class Skipped(pytest.Module):
    """A test file that is not even imported."""

    def collect(self):
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Without rclpy, skip every file of this folder and say why."""
    return Skipped.from_parent(parent, path=module_path) if rclpy is None else None


@pytest.fixture(scope="session", autouse=True)
def ros_domain() -> Iterator[int]:
    """The domain of this process and of the processes that it starts, which talk to this machine only."""
    with own_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        yield domain


@pytest.fixture(scope="session")
def ros(ros_domain: int) -> Iterator[None]:
    """An initialised rclpy."""
    rclpy.init()
    yield
    rclpy.try_shutdown()
