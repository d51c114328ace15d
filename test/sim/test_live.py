"""The live arm and camera: they trail a stream, hold without one, refuse leaps, and stop cleanly."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.sim.controller import FOLLOW_SPEED
from vjepa_ac_planner.sim.live import TICK, LiveArm, LiveCamera, Tick
from vjepa_ac_planner.sim.panda import ObjectPose, PandaSim, down_state
from vjepa_ac_planner.sim.setpoints import SetpointGuard, StreamStatistics
from vjepa_ac_planner.sim.tasks import make_task
from vjepa_ac_planner.types import Command

AWAY = {"cup": ObjectPose((0.2, -0.5, 0.035)), "box": ObjectPose((0.2, 0.5, 0.0275))}
START = down_state([0.5, 0.0, 0.4])


def test_following_trails_a_moving_setpoint_by_a_few_hundredths_of_a_second(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    speed, lags = 0.3, []
    for k in range(1, 31):  # 30 Hz
        target = down_state([0.5, speed * k / 30, 0.4])
        sim.follow(target, 0.03)
        lags.append((target[1] - sim.state()[1]) / speed)
    assert 0.0 < np.mean(lags[10:]) < 0.06
    # No stop between two setpoints: the lag stays, the arm does not catch up and wait.
    assert np.std(lags[10:]) < 0.005


def test_following_arrives_and_stays_without_drift(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    target = down_state([0.6, 0.1, 0.3], gripper=1.0)
    for _ in range(100):
        sim.follow(target, 0.01)
    assert np.linalg.norm(sim.state()[:3] - target[:3]) < 1e-3
    assert sim.state()[6] > 0.99
    for _ in range(2000):
        sim.follow(target, 0.01)
    assert np.linalg.norm(sim.state()[:3] - target[:3]) < 1e-3


def test_following_takes_the_time_it_is_given(sim: PandaSim) -> None:
    before = sim.time
    sim.follow(sim.reference(), 0.03)
    assert sim.time - before == pytest.approx(0.03)


def test_following_never_outruns_its_speed_however_far_the_setpoint(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.4, -0.3, 0.2]), AWAY)
    for _ in range(50):
        before = sim.reference()[:3]
        sim.follow(down_state([0.68, 0.3, 0.5]), TICK)
        assert np.linalg.norm(sim.reference()[:3] - before) <= FOLLOW_SPEED * TICK * 1.2


def test_a_step_after_a_stream_starts_where_the_stream_ended(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    target = down_state([0.55, 0.05, 0.38])
    for _ in range(60):
        sim.follow(target, TICK)
    sim.apply(Command("hold", START, 0.25))
    assert np.linalg.norm(sim.state()[:3] - target[:3]) < 2e-3


def test_a_held_object_is_kept_while_following_and_let_go_when_told(sim: PandaSim) -> None:
    task = make_task("reach_with_object", 1, sim)
    task.begin(sim)
    thing = task.object
    assert thing is not None and sim.holding(thing)
    held = sim.reference()
    up = held + np.array([0, 0, 0.05, 0, 0, 0, 0])
    for _ in range(100):
        sim.follow(up, TICK)
    assert sim.holding(thing)
    for _ in range(60):
        sim.follow(np.append(up[:6], 0.0), TICK)
    assert not sim.holding(thing) and sim.state()[6] < 0.05


def test_a_setpoint_of_no_use_is_refused_by_name(sim: PandaSim) -> None:
    with pytest.raises(InputError, match="finite"):
        sim.follow(np.full(7, np.nan), TICK)


def test_time_passes_at_the_rate_of_the_wall_clock(sim: PandaSim) -> None:
    ticks: list[Tick] = []
    begin = time.time()
    with LiveArm(sim, ticks.append) as arm:
        assert until(lambda: len(ticks) >= 50)
    passed = time.time() - begin
    assert not arm.alive
    times = np.array([tick.time for tick in ticks])
    assert np.abs(np.diff(times) - TICK).max() < 1e-6
    assert begin <= times[0] <= begin + passed + TICK
    assert times[-1] - times[0] <= passed + TICK + arm.behind


def test_the_live_arm_goes_after_setpoints_and_holds_when_they_stop(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    with LiveArm(sim) as arm:
        for k in range(1, 21):
            assert arm.send(down_state([0.5, 0.005 * k, 0.4])[:6]) == ""
            time.sleep(0.02)
        goal = np.array([0.5, 0.1, 0.4])
        assert until(lambda: np.linalg.norm(arm.measure(lambda s: s.state())[:3] - goal) < 2e-3)
        time.sleep(0.3)
        assert np.linalg.norm(arm.measure(lambda s: s.state())[:3] - goal) < 2e-3


@pytest.mark.parametrize(
    ("pose", "word"),
    [
        (down_state([0.5, 0.3, 0.4])[:6], "leap of 0.300 m"),
        (down_state([0.5, 0.0, 0.4], yaw=1.2)[:6], "turn of 1.2"),
        (np.full(6, np.nan), "not finite"),
        (np.array([0.5, np.inf, 0.4, 3.1, 0.0, 0.0]), "not finite"),
    ],
)
def test_a_leap_is_refused_and_the_arm_does_not_move(sim: PandaSim, pose: np.ndarray, word: str) -> None:
    sim.reset_to(START, AWAY)
    with LiveArm(sim) as arm:
        assert word in arm.send(pose)
        time.sleep(0.2)
        assert np.linalg.norm(arm.measure(lambda s: s.state())[:3] - START[:3]) < 1e-3


def test_the_gripper_takes_openness_in_its_range_only(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    with LiveArm(sim) as arm:
        assert "allowed 0 (open) .. 1 (closed)" in arm.grip(1.5)
        assert "nan" in arm.grip(float("nan"))
        assert arm.grip(1.0) == ""
        assert until(lambda: arm.measure(lambda s: s.state())[6] > 0.99)


def test_beginning_anew_forgets_the_old_target(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    start = sim.snapshot()
    with LiveArm(sim) as arm:
        before = arm.time
        assert arm.send(down_state([0.5, 0.01, 0.4])[:6]) == ""
        time.sleep(0.2)
        arm.begin(start)
        time.sleep(0.2)
        assert np.linalg.norm(arm.measure(lambda s: s.state())[:3] - START[:3]) < 1e-3
        assert arm.time > before  # the clock does not jump back with the world


def test_an_error_in_the_physics_thread_is_handed_to_who_stops_it(sim: PandaSim) -> None:
    def fail(_: Tick) -> None:
        raise RuntimeError("the sensor is on fire")

    arm = LiveArm(sim, fail)
    arm.start()
    assert until(lambda: not arm.alive)
    with pytest.raises(RuntimeError, match="on fire"):
        arm.stop()
    arm.stop()


def test_rates_that_make_no_sense_are_refused(sim: PandaSim) -> None:
    with pytest.raises(ConfigError, match="rate: received 0"):
        LiveArm(sim, rate=0.0)


def test_the_camera_shows_where_the_arm_is_and_takes_jobs(sim: PandaSim) -> None:
    sim.reset_to(START, AWAY)
    pictures: list[tuple[float, np.ndarray]] = []
    with LiveArm(sim) as arm, LiveCamera(arm, sim.config, 50.0, lambda *p: pictures.append(p)) as camera:
        assert until(lambda: len(pictures) >= 3)
        task = camera.ask(lambda own: make_task("reach", 5, own)).result(timeout=10)
        arm.begin(task.start)
        count = len(pictures)
        assert until(lambda: len(pictures) > count + 2)
        shown = camera.ask(lambda own: own.state()).result(timeout=10)
        assert np.linalg.norm(shown[:3] - arm.measure(lambda s: s.state())[:3]) < 0.01
        with pytest.raises(InputError, match=r"task: received .dance."):
            camera.ask(lambda own: make_task("dance", 5, own)).result(timeout=10)
    assert not camera.alive
    stamps = [stamp for stamp, _ in pictures]
    assert stamps == sorted(stamps) and pictures[0][1].shape == (64, 64, 3)
    with pytest.raises(RuntimeError, match="has stopped"):
        camera.ask(lambda own: own.state()).result(timeout=10)


def test_no_picture_is_drawn_that_nobody_wants(sim: PandaSim) -> None:
    taken = threading.Event()
    with (
        LiveArm(sim) as arm,
        LiveCamera(arm, sim.config, 50.0, lambda *_: taken.set(), wanted=lambda: False),
    ):
        assert not taken.wait(0.3)


def test_while_time_stands_still_there_is_one_picture(sim: PandaSim) -> None:
    pictures: list[float] = []
    arm = LiveArm(sim)  # not started
    with LiveCamera(arm, sim.config, 50.0, lambda stamp, _: pictures.append(stamp)):
        assert until(lambda: len(pictures) == 1)
        assert not until(lambda: len(pictures) > 1, 0.3)


finite = st.floats(-0.3, 0.3)


@given(st.tuples(finite, finite, finite), st.floats(0.0, 100.0))
def test_the_guard_lets_pass_what_the_arm_could_have_done_and_nothing_else(offset, seconds) -> None:
    guard = SetpointGuard()
    last = down_state([0.5, 0.0, 0.4])
    setpoint = last + np.array([*offset, 0, 0, 0, 0])
    distance, bound = float(np.linalg.norm(offset)), min(0.02 + seconds, 0.15)
    if abs(distance - bound) > 1e-9:
        assert (guard.objection(last, setpoint, seconds) == "") == (distance < bound)


def test_statistics_name_the_largest_gap_and_skip_the_one_that_was_meant() -> None:
    stream = StreamStatistics(period=0.02)
    for now in (0.00, 0.02, 0.05, 0.10):
        stream.arrived(now, 2 * now, age=0.001)
    stream.refuse("leap")
    stream.interrupt()
    stream.arrived(5.0, 10.0, age=0.003)
    record = stream.record()
    assert record["received"] == 5 and record["refused"] == {"leap": 1}
    assert record["largest_gap_s"] == pytest.approx(0.05) and record["late"] == 1
    assert record["largest_stamp_gap_s"] == pytest.approx(0.1)
    assert record["mean_gap_s"] == pytest.approx(0.1 / 3)
    assert record["largest_age_s"] == 0.003 and record["mean_age_s"] == pytest.approx(0.007 / 5)
