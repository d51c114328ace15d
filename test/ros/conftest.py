"""ROS tests: real rclpy over real Fast DDS, each test process alone in a domain of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

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


def free_domain() -> tuple[int, socket.socket]:
    """A ROS domain that no other test process of this machine has, and the lock that keeps it so.

    The lock is a socket that is bound until the process ends, however it ends. Ports of domains above 101
    overlap with those that the kernel hands out.
    """
    for step in range(101):
        domain = 1 + (os.getpid() + step) % 101
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(f"\0vjepa-ac-planner-test-domain-{domain}")
        except OSError:
            lock.close()
        else:
            return domain, lock
    raise RuntimeError("all ROS domains are taken by other test processes")


@pytest.fixture(scope="session", autouse=True)
def ros_domain() -> Iterator[int]:
    """The domain of this process and of the processes that it starts, which talk to this machine only."""
    domain, lock = free_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    yield domain
    lock.close()


@pytest.fixture(scope="session")
def ros(ros_domain: int) -> Iterator[None]:
    """An initialised rclpy."""
    rclpy.init()
    yield
    rclpy.try_shutdown()
