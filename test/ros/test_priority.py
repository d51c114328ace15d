"""Scheduling priorities: taken where granted, and never an error where not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from vjepa_ac_planner.ros import priority

SCRIPT = """
import os, threading
from vjepa_ac_planner.ros import priority
{before}
priority.prefer_process()
seen = []
niceness = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
thread = threading.Thread(target=lambda: seen.append(niceness()))
thread.start(); thread.join()
print(niceness(), seen[0])
"""


def niceness(before: str = "") -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def allowed() -> bool:
    """Whether a process may raise its own priority here."""
    script = "import os; os.setpriority(os.PRIO_PROCESS, 0, -20)"
    return not subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode


def test_the_process_and_its_threads_go_first_where_that_is_granted() -> None:
    wanted = priority.PROCESS_NICENESS if allowed() else os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness() == [wanted, wanted]


def test_a_priority_that_is_higher_already_stays() -> None:
    if not allowed():
        pytest.skip("needs the right to raise priorities")
    assert niceness("os.setpriority(os.PRIO_PROCESS, 0, -20)") == [-20, -20]


def test_refusals_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    priority.prefer_process()
    priority.realtime_thread()
