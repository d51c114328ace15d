"""Scheduling priorities, asked for where the system grants them; nothing depends on it.

A robot's control machine usually grants them (``rtprio`` and ``nice`` in limits.conf).
"""

from __future__ import annotations

import os
from contextlib import suppress

REALTIME_PRIORITY = 10
"""Low among real-time threads: above everything that is none, below drivers and the robot's own."""
PROCESS_NICENESS = -10
"""Of the whole planner. Threads of one interpreter take turns: when one that holds its lock waits for a
core behind another process, the setpoint thread waits with it, real-time or not."""


def prefer_process() -> None:
    """Put this process, and the threads it starts from now on, before ordinary processes."""
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) > PROCESS_NICENESS:
            os.setpriority(os.PRIO_PROCESS, 0, PROCESS_NICENESS)


def realtime_thread() -> None:
    """Real-time scheduling for the calling thread."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
