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
_AROUND_SECONDS = 2.0
"""Diagnostics are late by up to half a second, and counters are read once a second: what the host took so
long before a window counts as taken in it [s]."""


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
    stolen_s: float
    """What the host has taken away since the beginning, of all cores together [s]."""
    stolen_around_s: float
    """Of that, what it took in this window and shortly before [s]."""


class StolenTime:
    """How much of the cores' time a virtual machine's host takes away; 0 where nothing counts it."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def look(self, now: float) -> None:
        """Read the counter; call it about once a second.

        Args:
            now: steady clock [s].
        """
        try:
            words = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()
        except OSError:
            return
        ticks = int(words[8]) if len(words) > 8 else 0
        self._marks.append((now, ticks / os.sysconf("SC_CLK_TCK")))

    def between(self, begin: float, end: float) -> float:
        """Of all cores together between two times [s], to within a look [s]."""
        before = [stolen for now, stolen in self._marks if now <= begin]
        before = before or [stolen for _, stolen in self._marks[:1]]
        within = [stolen for now, stolen in self._marks if now <= end]
        return max(0.0, within[-1] - before[-1]) if before and within else 0.0


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
        self.samples: list[Sample] = []
        """The state at the beginning, then one for each window."""
        self.pauses = 0
        """How often the safety layer paused, and was resumed."""

    def run(
        self, seconds: float, goal_seconds: float, seed: int, on_sample: Callable[[Sample], None]
    ) -> None:
        """Plan towards one goal after the other; afterwards the planner is disabled.

        Args:
            seconds: how long.
            goal_seconds: a new goal comes so often [s].
            seed: of the first goal; the following ones count up.
            on_sample: told every sample.

        Raises:
            NotReadyError: a node refused, or does not answer.
        """
        self.trigger("planner/reset")
        self.set_seed(seed)
        self.trigger("sim/reset")
        self.give_goal()
        self.enable()
        begin = time.monotonic()
        window, next_goal = begin, begin + goal_seconds
        self._sample(begin, begin, on_sample)
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
                self._sample(begin, window, on_sample)
                window = now
        self.spin(SETTLE_SECONDS)
        self._sample(begin, window, on_sample)
        self.enable(False)

    def plan_seconds(self) -> list[float]:
        """50th and 95th percentile of the newest plans [s]; empty before the first."""
        text = self._value("planner: planning", "plan [s], p50 p95", "-")
        return [] if text == "-" else [float(word) for word in text.split()]

    def _sample(self, begin: float, window: float, on_sample: Callable[[Sample], None]) -> None:
        now = time.monotonic()
        self._stolen.look(now)
        stream = "planner: setpoint stream"
        sample = Sample(
            seconds=now - begin,
            setpoints=int(self._value(stream, "sent")),
            late=int(self._value(stream, "gaps over two periods")),
            largest_gap_s=float(self._value(stream, "largest gap [s]")),
            frames=int(self._value("planner: camera", "received")),
            plans=int(self._value("planner: planning", "plans")),
            planner=Process.of(self._pids[0]),
            simulator=Process.of(self._pids[1]),
            stolen_s=self._stolen.between(begin, now),
            stolen_around_s=self._stolen.between(window - _AROUND_SECONDS, now),
        )
        self.samples.append(sample)
        on_sample(sample)

    def _value(self, part: str, key: str, default: str = "0") -> str:
        return self.diagnostics.get(part, {}).get(key, default)


def summary(samples: Sequence[Sample], period: float) -> dict[str, Any]:
    """What a run amounts to; gaps are told apart by whether the host took time away around them.

    Args:
        samples: of a run.
        period: time between setpoints [s]. A gap of more than two needs a delay of more than one, so a
            window in which the host took less than that is one in which it cannot have caused a gap.

    Raises:
        NotReadyError: there is no window: the run was too short.
    """
    if len(samples) < 2:
        raise NotReadyError("no window was completed")
    first, last = samples[0], samples[-1]
    seconds = last.seconds - first.seconds
    classes = {name: {"windows": 0, "setpoints": 0, "gaps": 0} for name in ("host_quiet", "host_stealing")}
    for before, sample in pairwise(samples):
        found = classes["host_stealing" if sample.stolen_around_s >= period else "host_quiet"]
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
