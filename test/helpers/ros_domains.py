"""ROS domains for tests: each process, and each robot, talks in one of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

DOMAINS = range(1, 102)
"""Ports of domains above 101 overlap with those that the kernel hands out."""


@contextmanager
def own_domain() -> Iterator[int]:
    """A domain that no other test of this machine has, in this process or another, until it is left.

    What keeps it so is a socket that stays bound until the process ends, however it ends.
    """
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + step) % len(DOMAINS)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
            try:
                lock.bind(f"\0vjepa-ac-planner-test-domain-{domain}")
            except OSError:
                continue
            yield domain
            return
    raise RuntimeError("all ROS domains are taken by other tests")
