"""Tells a machine that stood still from code that is slow.

Tests of processes that must answer in time say nothing about them on a machine that gave them no time: a
host that takes its cores away, or other work. A thread that sleeps for 10 ms at a time sees that.
"""

from __future__ import annotations

import threading
import time
from typing import ClassVar

TICK = 0.01
STALL = 0.05
"""Lateness of one tick that is counted [s]; waking late by a few milliseconds is common."""


class MachineStalled(AssertionError):
    """A test failed while the machine stood still; it is run again, twice at most."""


class UnsafeCommand(AssertionError):
    """A command that must not be sent was sent: a failure on any machine, never run again."""

    seen: ClassVar[list[str]] = []
    """By the checks at the end of tests, whose failure would be lost with a test that is run again."""


class Witness:
    """Counts for how long this process could not run."""

    def __init__(self) -> None:
        self._late: list[float] = []
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(TICK)
            now = time.monotonic()
            if (late := now - before - TICK) > STALL:
                self._late.append(late)
            before = now

    def mark(self) -> int:
        """A moment, for :meth:`since`."""
        return len(self._late)

    def since(self, mark: int) -> list[float]:
        """The stalls after a moment [s]."""
        time.sleep(3 * TICK)  # the one that may just have ended is counted, too
        return self._late[mark:]
