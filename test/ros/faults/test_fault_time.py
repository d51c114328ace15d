"""Time runs backwards or stands still: what was seen before means nothing any more."""

from __future__ import annotations

import time

import pytest
from fault_rig import SLACK, STEP, Rig

OK, WARN, ERROR = 0, 1, 2


def test_stamps_of_the_robot_run_backwards(running):
    """Its clock was set back by an hour: everything is too old by that, and it is not trusted."""
    robot, begin = running.robot, running.robot.clock()
    robot.faults.image_offset = robot.faults.state_offset = -3600.0
    deadline = robot.clock() + STEP + SLACK
    time.sleep(STEP + SLACK)
    running.check_still(deadline)
    robot.wait_status(r"^holding: max_image_age: 3[56]\d\d\.\d+ s, allowed 0.500 s", begin)
    robot.wait_diagnostic("setpoint stream", r"^hold: max_state_age: 3[56]\d\d", None, begin)
    robot.heal()
    robot.wait_motion(robot.clock())


@pytest.fixture(scope="module")
def looped(profile, tmp_path_factory):
    """Robot and planner that live by ``/clock``."""
    rig = Rig(profile, tmp_path_factory.mktemp("sim-time"), sim_time=True)
    try:
        rig.start()
        yield rig
        rig.planner.end()
    finally:
        rig.close()


@pytest.fixture
def simulated(looped):
    looped.prepare()
    looped.run()
    yield looped
    looped.robot.clock_runs = True
    looped.robot.heal()


def test_the_clock_runs_backwards(simulated):
    """A bag that loops: a hold at most, then on with new frames and states, and no leap."""
    robot = simulated.robot
    for _ in range(3):
        begin = robot.clock()
        robot.clock_offset -= 10.0
        robot.wait_motion(begin + 0.2)
    assert "time has jumped: waiting for new frames and states" in simulated.planner.output
    # Stamps go back with the clock, so speeds are measured by arrival.
    simulated.check_leaps(begin)


@pytest.mark.slow
def test_the_clock_runs_backwards_and_the_robot_stays_silent(simulated):
    """Old frames and states must not pass for new ones when the clock comes by their stamps again."""
    robot = simulated.robot
    robot.faults.camera = robot.faults.state = False
    time.sleep(0.1)
    begin = robot.clock()
    robot.clock_offset -= 2.0
    deadline = begin + STEP + SLACK
    simulated.check_still(deadline, 3.0)
    robot.wait_diagnostic("setpoint stream", "no robot state has been received", None, begin)
    robot.heal()
    robot.wait_motion(robot.clock())


@pytest.mark.slow
def test_the_clock_leaps_ahead(simulated):
    robot, begin = simulated.robot, simulated.robot.clock()
    robot.clock_offset += 100.0
    robot.wait_motion(begin + 0.2)
    simulated.check_leaps(begin)


@pytest.mark.slow
def test_the_clock_stands_still(simulated):
    """A world that is paused: the arm moves no further, and then goes on."""
    robot = simulated.robot
    robot.clock_runs = False
    begin = robot.clock() + 0.1
    simulated.check_still(begin, 1.0)
    robot.clock_runs = True
    robot.wait_motion(robot.clock())
