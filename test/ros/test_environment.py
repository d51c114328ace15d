"""The mailbox: which frame goes with which state, how long it waits, and what it does not believe."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vjepa_ac_planner.control.environment import MovesOn, ReportsStatus, RobotStatus
from vjepa_ac_planner.errors import InputError, PlanCancelled
from vjepa_ac_planner.ros.environment import Pending, RosEnvironment
from vjepa_ac_planner.types import Command, Frame, RobotState

POSE = np.array((0.5, 0.0, 0.3, 3.1, 0.0, 0.0, 0.0))
PATIENCE = 0.2


class Bench:
    """A mailbox with a clock of its own."""

    def __init__(self):
        self.now = 100.0
        self.sent, self.looks = [], []
        self.status = None
        self.environment = RosEnvironment(
            lambda: self.now,
            self.sent.append,
            lambda: self.status,
            lambda what, why: self.looks.append((what, why)),
            PATIENCE,
        )

    def frame(self, stamp, bad=""):
        self.environment.put_frame(Pending(stamp, lambda: decode_frame(stamp, bad)))

    def state(self, stamp, bad="", x=0.5):
        self.environment.put_state(Pending(stamp, lambda: decode_state(stamp, bad, x)))

    def stamps(self):
        observation = self.environment.observe()
        return observation.frame.stamp, observation.state.stamp

    def later(self, seconds, action):
        thread = threading.Timer(seconds, action)
        thread.daemon = True
        thread.start()


def decode_frame(stamp, bad):
    if bad:
        raise InputError(bad)
    return Frame(np.zeros((16, 16, 3), np.uint8), stamp)


def decode_state(stamp, bad, x):
    if bad:
        raise InputError(bad)
    return RobotState(np.append(x, POSE[1:]), stamp)


@pytest.fixture
def bench():
    return Bench()


def command(seconds=0.25):
    return Command("move", POSE, seconds, 100.0, "")


def test_it_is_what_the_loop_asks_for(bench):
    assert isinstance(bench.environment, MovesOn) and isinstance(bench.environment, ReportsStatus)


@pytest.mark.parametrize(
    ("frame", "state"),
    [(10.00, 10.0), (10.04, 10.0), (10.06, 10.1), (10.12, 10.1), (9.0, 10.0), (11.0, 10.2)],
)
def test_a_frame_goes_with_the_state_nearest_in_time(bench, frame, state):
    for stamp in (10.0, 10.1, 10.2):
        bench.state(stamp)
    bench.frame(frame)
    assert bench.stamps() == (frame, state)


def test_the_newest_frame_and_state_are_given_without_pairing(bench):
    bench.frame(10.0)
    for stamp in (10.0, 10.5):
        bench.state(stamp)
    newest = bench.environment.newest()
    assert (newest.frame.stamp, newest.state.stamp) == (10.0, 10.5)


def test_before_anything_has_come_there_is_nothing_newest(bench):
    with pytest.raises(InputError, match="no frame or no state"):
        bench.environment.newest()
    bench.frame(10.0)
    with pytest.raises(InputError, match="no frame or no state"):
        bench.environment.newest()


def test_it_waits_for_the_first_frame_and_state_for_ever(bench):
    bench.later(2 * PATIENCE, lambda: bench.frame(10.0))
    bench.later(3 * PATIENCE, lambda: bench.state(10.0))
    begin = time.monotonic()
    assert bench.stamps() == (10.0, 10.0)
    assert time.monotonic() - begin > 2.5 * PATIENCE


def test_after_a_step_it_waits_for_a_frame_of_after_it(bench):
    bench.frame(99.9)
    bench.state(99.9)
    bench.environment.apply(command(0.0))

    def both():
        bench.state(100.0)
        bench.frame(100.0)

    bench.later(0.05, both)
    assert bench.stamps() == (100.0, 100.0)


def test_but_no_longer_than_its_patience(bench):
    bench.frame(99.9)
    bench.state(99.9)
    bench.environment.apply(command(0.0))
    begin = time.monotonic()
    assert bench.stamps() == (99.9, 99.9)
    assert PATIENCE <= time.monotonic() - begin < 20 * PATIENCE


def test_a_cancel_ends_the_wait_for_a_first_frame(bench):
    bench.later(0.05, bench.environment.cancel.set)
    with pytest.raises(PlanCancelled):
        bench.environment.observe()


def test_a_cancel_ends_the_wait_for_a_newer_frame(bench):
    bench.environment.patience = 60.0
    bench.frame(99.0)
    bench.state(99.0)
    bench.environment.apply(command(0.0))
    bench.later(0.05, bench.environment.cancel.set)
    assert bench.stamps() == (99.0, 99.0)


def test_applying_takes_the_duration_of_the_command(bench):
    def tick():
        for _ in range(30):
            bench.now += 0.01
            time.sleep(0.005)

    threading.Thread(target=tick, daemon=True).start()
    bench.environment.apply(command(0.25))
    assert bench.now >= 100.25 - 1e-6
    assert [sent.duration for sent in bench.sent] == [0.25]


def test_what_is_begun_goes_on_by_itself(bench):
    begin = time.monotonic()
    bench.environment.begin(command(10.0))
    assert time.monotonic() - begin < 2.0
    assert [sent.duration for sent in bench.sent] == [10.0]
    bench.later(0.05, lambda: setattr(bench, "now", 110.0))
    bench.environment.finish()
    assert bench.now == 110.0 and len(bench.sent) == 1


def test_after_a_late_finish_a_frame_of_after_the_motion_is_new_enough(bench):
    bench.environment.begin(command(0.25))
    bench.now = 100.5  # something took longer than the motion
    bench.frame(100.3)
    bench.state(100.3)
    bench.environment.finish()
    begin = time.monotonic()
    assert bench.stamps() == (100.3, 100.3)
    assert time.monotonic() - begin < PATIENCE / 2


def test_applying_ends_at_a_cancel(bench):
    bench.environment.cancel.set()
    begin = time.monotonic()
    bench.environment.apply(command(10.0))
    assert time.monotonic() - begin < 2.0 and len(bench.sent) == 1


def test_applying_ends_when_the_clock_runs_back(bench):
    bench.later(0.05, lambda: setattr(bench, "now", 50.0))
    begin = time.monotonic()
    bench.environment.apply(command(10.0))
    assert time.monotonic() - begin < 5.0
    # From then on the new time counts.
    bench.frame(50.0)
    bench.state(50.0)
    assert bench.stamps() == (50.0, 50.0)


@pytest.mark.parametrize("stamp", [10.2, 10.1, 9.8])
def test_states_that_come_late_or_twice_are_no_news(bench, stamp):
    bench.state(10.0)
    bench.state(10.2, x=0.5)
    bench.state(stamp, x=0.6)
    assert bench.environment.state.stamp == 10.2
    assert bench.environment.state.position[0] == 0.5


def test_states_of_long_before_begin_a_new_time(bench):
    bench.state(10.0)
    bench.state(5.0)
    assert bench.environment.state.stamp == 5.0
    bench.frame(5.0)
    assert bench.stamps() == (5.0, 5.0)


def test_one_state_from_the_far_future_is_forgotten_with_the_next(bench):
    bench.state(10.0)
    bench.state(9999.0)
    bench.state(10.01)
    assert bench.environment.state.stamp == 10.01


def test_frames_of_long_before_begin_a_new_time_and_its_states(bench):
    bench.state(10.0)
    bench.frame(10.0)
    bench.frame(3.0)
    assert bench.environment.state is None
    bench.state(3.01)
    assert bench.stamps() == (3.0, 3.01)


def test_a_reset_forgets_everything(bench):
    bench.state(10.0)
    bench.frame(10.0)
    bench.environment.observe()
    bench.environment.reset()
    assert bench.environment.frame is None and bench.environment.state is None
    with pytest.raises(InputError, match="since time jumped"):
        bench.environment.newest()


def test_a_bad_frame_leaves_the_last_good_one_and_is_told_once(bench):
    bench.state(10.0)
    bench.frame(10.0)
    assert bench.stamps() == (10.0, 10.0)
    bench.frame(10.1, bad="image: torn")
    for _ in range(3):
        assert bench.environment.newest().frame.stamp == 10.0
    assert bench.looks.count(("image", "image: torn")) == 1


def test_a_bad_state_leaves_the_one_before(bench):
    bench.state(10.0)
    bench.state(10.1, bad="pose: NaN")
    assert bench.environment.state.stamp == 10.0
    bench.frame(10.1)
    assert bench.stamps() == (10.1, 10.0)
    assert bench.looks.count(("state", "pose: NaN")) == 1


def test_bad_states_are_passed_over_in_pairing(bench):
    bench.state(10.0)
    bench.state(10.1, bad="pose: NaN")
    bench.state(10.3)
    bench.frame(10.1)
    assert bench.stamps() == (10.1, 10.0)


def test_a_first_frame_that_is_bad_is_waited_over(bench):
    bench.state(10.0)
    bench.frame(10.0, bad="image: torn")
    bench.later(0.05, lambda: bench.frame(10.05))
    assert bench.stamps() == (10.05, 10.0)


def test_what_is_not_looked_at_is_not_decoded(bench):
    decoded = []
    for stamp in (1.0, 2.0, 3.0):
        bench.environment.put_frame(Pending(stamp, lambda stamp=stamp: decoded.append(stamp) or "frame"))
        bench.environment.put_state(Pending(stamp, lambda stamp=stamp: decoded.append(stamp) or "state"))
    assert decoded == []
    bench.environment.look()
    assert decoded == [3.0, 3.0]
    bench.environment.look()
    assert decoded == [3.0, 3.0]
    assert bench.looks == [("state", None), ("image", None)]


def test_the_status_is_passed_on(bench):
    assert bench.environment.status() == RobotStatus()
    bench.status = RobotStatus("reflex")
    assert bench.environment.status().mode == "reflex"


def test_many_writers_and_a_reader_never_see_a_pair_that_is_none(bench):
    """States at 1 kHz, frames, and a reader at full speed: every pair is within one period."""
    stop = threading.Event()

    def write():
        begin = time.monotonic()
        while not stop.is_set():
            stamp = 100.0 + time.monotonic() - begin
            bench.state(stamp)
            bench.frame(stamp)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        frame, state = bench.stamps()
        assert abs(frame - state) < 0.2
    stop.set()
    writer.join()
