"""The setpoint thread: silent until started, steady, alive whatever happens, and an orderly end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.control.stream import SetpointStream
from vjepa_ac_planner.ros.setpoints import ENDING_SECONDS, SetpointThread
from vjepa_ac_planner.types import Command, RobotState

PERIOD = 0.01
HOME = np.array((0.5, 0.0, 0.3, 3.1, 0.0, 0.0, 0.0))
SOON = 10.0


class Bench:
    """A thread on an ideal arm that stands at HOME."""

    def __init__(self):
        self.sent, self.errors = [], []
        self.clock = time.monotonic
        self.state_age = 0.0
        self.fails = False
        limits = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
        self.thread = SetpointThread(
            SetpointStream(SafetyLayer(SafetyConfig(limits))),
            PERIOD,
            clock=lambda: self.clock(),
            state=self._state,
            status=RobotStatus,
            publish=self._publish,
            on_error=self.errors.append,
        )

    def _state(self):
        return RobotState(HOME, self.clock() - self.state_age)

    def _publish(self, setpoint):
        if self.fails:
            raise RuntimeError("no publisher")
        self.sent.append((time.monotonic(), setpoint))

    def move(self, offset=0.05):
        self.thread.command(Command("move", HOME + [0, offset, 0, 0, 0, 0, 0], 0.25, self.clock(), ""))

    def wait(self, condition):
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.001)

    def wait_sent(self, number):
        count = len(self.sent) + number
        self.wait(lambda: len(self.sent) >= count)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.fails = False
    bench.thread.close()
    assert not any(thread.name == "setpoints" for thread in threading.enumerate())


def test_nothing_is_sent_before_the_start(bench):
    bench.move()
    time.sleep(10 * PERIOD)
    assert (bench.sent, bench.thread.mode) == ([], "silent")


def test_it_begins_with_a_hold_at_the_measured_pose_and_no_old_command(bench):
    bench.move()
    bench.thread.start()
    bench.wait_sent(5)
    for _, setpoint in bench.sent[:5]:
        assert (setpoint.kind, setpoint.reason) == ("hold", "no command yet")
        np.testing.assert_array_equal(setpoint.pose, HOME)


def test_a_command_is_carried_out_at_a_steady_rate(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.move()
    bench.wait(lambda: abs(bench.sent[-1][1].pose[1] - 0.05) < 1e-9)
    times = np.array([at for at, _ in bench.sent])
    assert np.median(np.diff(times)) == pytest.approx(PERIOD, rel=0.3)
    statistics = bench.thread.statistics
    assert statistics.sent >= len(bench.sent) - 1 and len(statistics.latencies) == 1
    assert 0.0 <= statistics.latencies[0] < 1.0


def test_a_stop_holds_and_falls_silent(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.move()
    bench.wait(lambda: bench.sent[-1][1].pose[1] > 0.005)
    stopped = time.monotonic()
    bench.thread.stop()
    assert bench.thread.mode == "ending"
    bench.wait(lambda: bench.thread.mode == "silent")
    after = [setpoint for at, setpoint in bench.sent if at > stopped + PERIOD]
    assert {setpoint.kind for setpoint in after} == {"hold"}
    assert np.ptp([setpoint.pose for setpoint in after], axis=0).max() == 0.0
    assert bench.sent[-1][0] == pytest.approx(stopped + ENDING_SECONDS, abs=0.3)
    number = len(bench.sent)
    bench.move()
    time.sleep(10 * PERIOD)
    assert len(bench.sent) == number


def test_a_start_soon_after_a_stop_begins_afresh(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.move()
    bench.wait_sent(5)
    bench.thread.stop()
    bench.thread.start()
    number = len(bench.sent)
    bench.wait_sent(10)
    # A tick that was under way may still have been of before.
    assert all(setpoint.kind == "hold" for _, setpoint in bench.sent[number + 1 :])
    time.sleep(ENDING_SECONDS)
    assert bench.thread.mode == "run"


def test_an_error_is_told_and_the_next_setpoint_comes(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.fails = True
    bench.wait(lambda: len(bench.errors) > 2)
    assert set(bench.errors) == {"RuntimeError: no publisher"}
    bench.fails = False
    bench.wait_sent(5)


def test_an_end_that_cannot_be_sent_ends_all_the_same(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.fails = True
    begin = time.monotonic()
    bench.thread.close()
    assert time.monotonic() - begin < ENDING_SECONDS + SOON / 2
    assert bench.thread.mode == "silent"


def test_a_stale_state_holds_where_the_stream_is(bench):
    bench.thread.start()
    bench.wait_sent(2)
    bench.move()
    bench.wait(lambda: bench.sent[-1][1].pose[1] > 0.005)
    bench.state_age = 1.0
    bench.wait_sent(2)
    held = bench.sent[-1][1].pose
    bench.wait_sent(20)
    assert bench.sent[-1][1].kind == "hold" and "max_state_age" in bench.sent[-1][1].reason
    np.testing.assert_array_equal(bench.sent[-1][1].pose, held)


def test_without_a_fresh_state_it_does_not_begin(bench):
    bench.state_age = 1.0
    bench.thread.start()
    time.sleep(10 * PERIOD)
    assert bench.sent == []
    bench.state_age = 0.0
    bench.wait_sent(2)


def test_on_a_slow_simulated_clock_the_arm_is_as_slow(bench):
    """A tenth of real time: the speed in the world's own time is what is limited."""
    origin = time.monotonic()
    bench.clock = lambda: origin + 0.1 * (time.monotonic() - origin)
    bench.thread.start()
    bench.wait_sent(2)
    bench.move(0.13)
    begin = time.monotonic()
    time.sleep(0.5)
    assert 0.0 < bench.sent[-1][1].pose[1] <= 0.6 * 0.1 * (time.monotonic() - begin + 0.05)


def test_on_a_clock_that_stands_still_or_runs_back_the_arm_does_not_move(bench):
    bench.thread.start()
    bench.wait_sent(2)
    stopped = time.monotonic()
    bench.clock = lambda: stopped
    bench.move()
    bench.wait_sent(10)
    back = time.monotonic()
    bench.clock = lambda: 2 * back - time.monotonic()
    bench.wait_sent(10)
    assert np.abs(np.array([setpoint.pose for _, setpoint in bench.sent[3:]]) - HOME).max() < 0.006


def test_after_a_stall_missed_setpoints_are_not_made_up_for(bench):
    bench.thread.start()
    bench.wait_sent(2)
    slow = bench.thread._publish
    bench.thread._publish = lambda setpoint: (time.sleep(0.3), slow(setpoint))
    bench.wait_sent(1)
    bench.thread._publish = slow
    bench.move(0.1)
    number, begin = len(bench.sent), time.monotonic()
    time.sleep(0.3)
    assert len(bench.sent) - number <= (time.monotonic() - begin) / PERIOD + 3
    assert bench.thread.statistics.late >= 1 and bench.thread.statistics.largest_gap >= 0.25


def test_after_a_stall_the_arm_goes_on_from_where_it_was(bench):
    bench.thread.start()
    bench.wait_sent(2)
    sends = bench.thread._publish
    bench.move(0.13)
    bench.wait_sent(3)
    bench.thread._publish = lambda setpoint: (time.sleep(0.1), sends(setpoint))
    bench.wait_sent(3)
    way = np.array([setpoint.pose[1] for _, setpoint in bench.sent])
    assert way[-1] > 0.0
    assert np.diff(way).max() <= 0.6 * 2 * PERIOD + 1e-9
