"""The soak test's arithmetic: what is counted, and what is put down to the host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from vjepa_ac_planner.errors import NotReadyError
from vjepa_ac_planner.ros import soak
from vjepa_ac_planner.ros.soak import Process, Sample, StolenTime, summary

pytestmark = pytest.mark.ros

NONE = Process(0.0, 0, 0.0)
START = Sample(0.0, 100, 1, 0.030, 50, 5, NONE, NONE, 0.0, 0.0)


def after(before: Sample, setpoints: int, late: int, stolen: float) -> Sample:
    return replace(
        before,
        seconds=before.seconds + 5.0,
        setpoints=before.setpoints + setpoints,
        late=before.late + late,
        frames=before.frames + 75,
        plans=before.plans + 10,
        stolen_s=before.stolen_s + stolen,
        stolen_around_s=stolen,
    )


def test_gaps_are_told_apart_by_whether_the_host_took_time():
    samples = [START]
    for window in ((250, 0, 0.0), (249, 1, 0.019), (240, 3, 0.2), (250, 0, 0.02)):
        samples.append(after(samples[-1], *window))
    samples[-1] = replace(samples[-1], largest_gap_s=0.2)
    found = summary(samples, 0.02)
    assert found["host_quiet"] == {"windows": 2, "setpoints": 499, "gaps": 1}
    assert found["host_stealing"] == {"windows": 2, "setpoints": 490, "gaps": 3}
    assert (found["setpoints"], found["gaps_over_two_periods"]) == (989, 4)
    assert (found["frames_per_s"], found["plans_per_s"], found["largest_gap_s"]) == (15.0, 2.0, 0.2)


@pytest.mark.parametrize("samples", [[], [START]])
def test_a_run_without_a_window_has_no_summary(samples):
    with pytest.raises(NotReadyError, match="no window"):
        summary(samples, 0.02)


class Counters:
    """Stands for /proc/stat, in ticks: user, ..., the eighth is what was stolen."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, _: str) -> Counters:
        return self

    def read_text(self, encoding: str) -> str:
        return self.text


def test_stolen_time_is_the_eighth_number_of_all_cores(monkeypatch):
    stolen = StolenTime()
    monkeypatch.setattr(soak.os, "sysconf", lambda _: 100)
    for now, text in (
        (0.0, "cpu  100 0 0 100 0 0 0 10 7 7\ncpu0 1 1"),
        (1.0, "cpu  200 0 0 200 0 0 0 10 8 8"),
        (2.0, "cpu  250 0 0 200 0 0 0 160 9 9"),
        (3.0, "cpu  350 0 0 300 0 0 0 160 9 9"),
    ):
        monkeypatch.setattr(soak, "Path", Counters(text))
        stolen.look(now)
    assert stolen.between(0.0, 1.0) == 0.0
    assert stolen.between(1.0, 2.5) == stolen.between(0.0, 3.0) == 1.5
    assert stolen.between(-2.0, 2.0) == 1.5  # as far back as there was a look
    assert stolen.between(2.0, 3.0) == 0.0


@pytest.mark.parametrize("text", ["cpu  1 2 3 4", ""])
def test_where_the_system_counts_nothing_nothing_was_stolen(monkeypatch, text):
    monkeypatch.setattr(soak, "Path", Counters(text))
    stolen = StolenTime()
    assert stolen.between(0.0, 1.0) == 0.0
    stolen.look(0.0)
    stolen.look(1.0)
    assert stolen.between(0.0, 1.0) == 0.0


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="counted by Linux only")
def test_a_process_is_read_as_it_is():
    code = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{code}; x = bytearray(50_000_000); print('up', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"up\n"
        found = Process.of(child.pid)
        assert found.threads == 2 and 50 < found.memory_mb < 150
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    begin = Process.of(os.getpid()).cpu_s
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert 0.1 < Process.of(os.getpid()).cpu_s - begin < 2.0


def test_a_process_that_is_gone_takes_nothing():
    assert Process.of(2**22 + 1) == NONE
