"""A soak test: planner and simulated robot work for a long time, and what must stay steady is counted.

Setpoints without gaps, memory and threads that do not grow, frames and plans at their rates; and, because
nothing inside a virtual machine can make up for it, the time that the host has taken away meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vjepa_ac_planner.errors import NotReadyError
from vjepa_ac_planner.ros.remote import Remote

WINDOW_SECONDS = 5.0
SETTLE_SECONDS = 1.5
"""Diagnostics come twice a second: the last setpoints are counted by then [s]."""
STEALING = 0.005
"""Share of the cores' time above which the host counts as having taken some in a window."""


@dataclass(frozen=True)
class Process:
    """What a process takes, as Linux counts it; zeros elsewhere."""

    memory_mb: float
    threads: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Of a running process."""
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return cls(0.0, 0, 0.0)
        values = dict(line.split(":", 1) for line in status.splitlines())
        cpu = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        return cls(int(values["VmRSS"].split()[0]) / 1024, int(values["Threads"]), cpu)


@dataclass(frozen=True)
class Sample:
    """One window, at its end; counts are since the nodes were started, times since the run began."""

    seconds: float
    setpoints: int
    late: int
    """Gaps of more than two periods."""
    largest_gap_s: float
    frames: int
    plans: int
    planner: Process
    simulator: Process
    stolen: float
    """Share of all cores' time that the host took away in this window and the two seconds before it."""


class StolenTime:
    """How much of the cores' time a virtual machine's host takes away; 0 where nothing counts it."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int, int]] = []

    def look(self, now: float) -> None:
        """Read the counters; call it about once a second.

        Args:
            now: steady clock [s].
        """
        try:
            words = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()[1:9]
        except OSError:
            return
        counts = [int(word) for word in words]
        self._marks.append((now, counts[7] if len(counts) == 8 else 0, sum(counts)))

    def share(self, begin: float, end: float) -> float:
        """Of all cores' time between two times [s], to within a look."""
        before = [mark for mark in self._marks if mark[0] <= begin] or self._marks[:1]
        within = [mark for mark in self._marks if mark[0] <= end]
        if not before or not within or within[-1][2] <= before[-1][2]:
            return 0.0
        return (within[-1][1] - before[-1][1]) / (within[-1][2] - before[-1][2])


class Soak(Remote):
    """Runs the nodes ``planner`` and ``sim`` of this ROS domain without a pause.

    Args:
        planner: process id of the planner node.
        simulator: that of the simulated robot.
        alive: asked while waiting; raises when a node has died.
    """

    def __init__(self, planner: int, simulator: int, alive: Callable[[], None] = lambda: None) -> None:
        super().__init__(alive)
        self._pids = planner, simulator
        self._stolen = StolenTime()
        self.pauses = 0
        """How often the safety layer paused, and was resumed."""

    def run(
        self, seconds: float, goal_seconds: float, seed: int, on_sample: Callable[[Sample], None]
    ) -> list[Sample]:
        """Plan towards one goal after the other; afterwards the planner is disabled.

        Args:
            seconds: how long.
            goal_seconds: a new goal comes so often [s].
            seed: of the first goal; the following ones count up.
            on_sample: told every window.

        Returns:
            The state at the beginning, then one sample for each window.

        Raises:
            NotReadyError: a node refused, or does not answer.
        """
        self.trigger("planner/reset")
        self.set_seed(seed)
        self.trigger("sim/reset")
        self.give_goal()
        self.enable()
        begin = time.monotonic()
        self._stolen.look(begin)
        samples = [self._sample(begin, begin)]
        on_sample(samples[0])
        next_goal, window = begin + goal_seconds, begin
        while (now := time.monotonic()) < begin + seconds:
            self._stolen.look(now)
            self.spin(min(1.0, begin + seconds - now))
            if self.status.startswith("paused"):
                self.pauses += 1
                self.enable()
            if (now := time.monotonic()) >= next_goal:
                seed, next_goal = seed + 1, now + goal_seconds
                self.set_seed(seed)
                self.give_goal()
            if now >= window + WINDOW_SECONDS:
                samples.append(self._sample(begin, window))
                on_sample(samples[-1])
                window = now
        self.spin(SETTLE_SECONDS)
        samples.append(self._sample(begin, window))
        self.enable(False)
        return samples

    def plan_seconds(self) -> list[float]:
        """50th and 95th percentile of the newest plans [s]; empty before the first."""
        text = self._value("planner: planning", "plan [s], p50 p95", "-")
        return [] if text == "-" else [float(word) for word in text.split()]

    def _sample(self, begin: float, window: float) -> Sample:
        now = time.monotonic()
        self._stolen.look(now)
        stream = "planner: setpoint stream"
        return Sample(
            seconds=now - begin,
            setpoints=int(self._value(stream, "sent")),
            late=int(self._value(stream, "gaps over two periods")),
            largest_gap_s=float(self._value(stream, "largest gap [s]")),
            frames=int(self._value("planner: camera", "received")),
            plans=int(self._value("planner: planning", "plans")),
            planner=Process.of(self._pids[0]),
            simulator=Process.of(self._pids[1]),
            stolen=self._stolen.share(window - 2.0, now),
        )

    def _value(self, part: str, key: str, default: str = "0") -> str:
        return self.diagnostics.get(part, {}).get(key, default)


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a run amounts to; gaps are told apart by whether the host took time away around them.

    Args:
        samples: as :meth:`Soak.run` returns them.

    Raises:
        NotReadyError: there is no window: the run was too short.
    """
    if len(samples) < 2:
        raise NotReadyError("no window was completed")
    first, last = samples[0], samples[-1]
    seconds = last.seconds - first.seconds
    classes = {name: {"windows": 0, "setpoints": 0, "gaps": 0} for name in ("host_quiet", "host_stealing")}
    for before, sample in pairwise(samples):
        found = classes["host_stealing" if sample.stolen >= STEALING else "host_quiet"]
        found["windows"] += 1
        found["setpoints"] += sample.setpoints - before.setpoints
        found["gaps"] += sample.late - before.late
    return {
        "seconds": seconds,
        "setpoints": last.setpoints - first.setpoints,
        "gaps_over_two_periods": last.late - first.late,
        "largest_gap_s": last.largest_gap_s,
        "frames_per_s": (last.frames - first.frames) / seconds,
        "plans_per_s": (last.plans - first.plans) / seconds,
        **classes,
    }
