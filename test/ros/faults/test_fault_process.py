"""The planner process itself: killed, interrupted in every lifecycle state, cycled, short of something."""

from __future__ import annotations

import re
import signal
import time

import numpy as np
import pytest
from fault_rig import PATIENCE, SLACK, START, Rig, write_profile
from lifecycle_msgs.msg import Transition

OK, WARN, ERROR = 0, 1, 2
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


@pytest.fixture
def alone(profile, tmp_path):
    """A rig whose planner is the package's own module, not started yet."""
    rig = Rig(profile, tmp_path, real=True)
    yield rig
    rig.close()


def ends_well(planner, *, seconds=PATIENCE):
    code = planner.wait(seconds)
    assert code == 0, f"exit code {code}: {planner.output}"
    assert "Traceback" not in planner.output


def test_killed_while_streaming_restarted_interrupted(alone):
    """Silence at once, nothing beyond the last setpoint; a restart sends nothing until it is enabled."""
    robot = alone.robot
    alone.start()
    alone.run()
    alone.planner.signal(signal.SIGKILL)
    assert alone.planner.wait() == -signal.SIGKILL
    killed = robot.clock()
    time.sleep(1.0)
    assert not robot.sent(killed + 0.1)
    alone.check_commands(0.0)
    # Somebody moves the arm before the planner is started again.
    elsewhere = START + np.array([0.03, 0.05, 0.04, 0.0, 0.0, 0.0, 0.0])
    robot.put(elsewhere)
    again = robot.clock()
    alone.start()
    time.sleep(0.5)
    assert not robot.sent(again)
    alone.run()
    first = robot.chain.robot_state(robot.sent(again)[0].message, 0.0).vector
    np.testing.assert_allclose(first[:6], elsewhere[:6], atol=1e-6)
    alone.check_commands(again)
    interrupted_twice(alone)


def interrupted_twice(rig):
    """The arm is held before the process ends, and the second signal changes nothing."""
    robot, interrupted = rig.robot, rig.robot.clock()
    rig.planner.signal(signal.SIGINT)
    time.sleep(0.1)
    rig.planner.signal(signal.SIGINT)
    ends_well(rig.planner)
    held = robot.sent(interrupted + 0.3)
    assert len(held) > 5 and robot.motion(interrupted + 0.3) < 1e-4
    assert robot.commands[-1].arrived < interrupted + 0.5 + 2 * SLACK


@pytest.mark.slow
def test_interrupted_while_it_loads(alone):
    planner = alone.spawn()
    planner.wait_output("loading model")
    planner.signal(signal.SIGINT)
    ends_well(planner)
    assert "goal" not in planner.output


@pytest.mark.slow
def test_interrupted_unconfigured(alone):
    planner = alone.spawn("-p", "autostart:=false")
    alone.robot.wait(lambda: alone.robot.state() == "unconfigured", "unconfigured")
    planner.signal(signal.SIGINT)
    ends_well(planner)


@pytest.mark.slow
def test_interrupted_inactive(alone):
    planner = alone.spawn("-p", "autostart:=false")
    assert alone.robot.change_state(CONFIGURE)
    assert alone.robot.state() == "inactive"
    planner.signal(signal.SIGTERM)
    ends_well(planner)


@pytest.mark.slow
def test_interrupted_active(alone):
    alone.start()
    assert alone.robot.state() == "active"
    alone.planner.signal(signal.SIGINT)
    ends_well(alone.planner)


@pytest.mark.slow
def test_a_profile_that_cannot_be_ends_it_with_a_reason(tmp_path):
    broken = write_profile(tmp_path, stream_hz=-3.0)
    rig_folder = tmp_path / "rig"
    rig_folder.mkdir()
    rig = Rig(write_profile(rig_folder), tmp_path, real=True)
    try:
        planner = rig.spawn("-p", f"robot:={broken}")
        assert planner.wait(PATIENCE) == 2
        assert "stream_hz: received -3.0" in planner.output
        assert not re.search(r"^Traceback", planner.output, re.MULTILINE)
    finally:
        rig.close()


@pytest.mark.slow
def test_without_model_it_says_so_and_ends(alone):
    """Started by itself it cannot serve, so it does not stay."""
    planner = alone.spawn("-p", "model:=/nowhere/model.yaml")
    assert planner.wait(PATIENCE) == 1
    assert "/nowhere/model.yaml" in planner.output
    assert "Traceback" not in planner.output


@pytest.mark.slow
def test_a_configuration_that_failed_leaves_nothing_behind(profile, tmp_path):
    """Whatever was made before it failed is gone: a second try is as good as a first one."""
    folder = tmp_path / "broken"
    folder.mkdir()
    # The command publisher can be made; then a topic name cannot be.
    path = write_profile(folder, topics={"goal_image": "no topic name"})
    rig = Rig(profile, tmp_path, real=True)
    try:
        robot = rig.robot
        rig.spawn("-p", "autostart:=false", "-p", f"robot:={path}")
        for _ in range(3):
            assert not robot.change_state(CONFIGURE)
            assert robot.state() == "unconfigured"
        time.sleep(0.5)
        assert robot.node.count_publishers("target_pose") == 0
        assert robot.node.count_subscribers("camera/image_raw") == 0
    finally:
        rig.close()


def cycle(robot, times):
    for _ in range(times):
        assert robot.change_state(DEACTIVATE)
        assert robot.change_state(ACTIVATE)


@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_cycles_of_activation_leave_nothing_behind(rig, times):
    robot, planner = rig.robot, rig.planner
    cycle(robot, 5)
    threads, memory = planner.threads(), planner.memory()
    cycle(robot, times)
    assert robot.state() == "active"
    # Threads of DDS may come and go by one; a leak would be two a cycle.
    assert planner.threads() <= threads + 2
    assert planner.memory() <= memory + 0.02 * times + 3.0
    rig.run()


def test_deactivated_in_mid_run_it_holds_and_falls_silent(running):
    robot, begin = running.robot, running.robot.clock()
    assert robot.change_state(DEACTIVATE)
    ended = robot.clock()
    assert robot.motion(ended - 0.3) < 1e-4 and robot.sent(begin)
    time.sleep(0.5)
    assert not robot.sent(ended + 0.1)
    success, why = robot.enable()
    assert not success and "not active" in why
    assert robot.change_state(ACTIVATE)
    running.run()


def test_nothing_moves_without_a_goal(rig):
    """After a cleanup the taught goal is gone; the refusal names the ways to give one."""
    robot = rig.robot
    assert robot.change_state(DEACTIVATE) and robot.change_state(CLEANUP)
    assert robot.state() == "unconfigured"
    assert robot.change_state(CONFIGURE) and robot.change_state(ACTIVATE)
    begin = robot.clock()

    def only_the_goal_is_missing() -> bool:
        success, why = robot.enable()
        assert not success
        return why.startswith("goal: none; publish one on /goal_image, call ~/set_goal_from_current")

    robot.wait(only_the_goal_is_missing, "the goal alone is missing")
    assert not robot.trigger("plan_once")[0]
    time.sleep(0.5)
    assert not robot.sent(begin)
    robot.send_goal()
    rig.run()


@pytest.mark.slow
def test_a_single_plan_is_answered_when_the_node_is_taken_down(rig):
    from std_srvs.srv import Trigger

    rig.order(seconds=3.0)
    future = rig.robot.ask("plan_once", Trigger.Request())
    time.sleep(0.5)
    assert rig.robot.change_state(DEACTIVATE)
    rig.robot.wait(future.done, "the single plan is answered")
    assert (future.result().success, future.result().message) == (False, "the node was deactivated")
    assert rig.robot.change_state(CLEANUP)
    assert rig.robot.change_state(CONFIGURE) and rig.robot.change_state(ACTIVATE)
    rig.teach()


@pytest.mark.slow
def test_a_cleanup_with_an_unanswered_plan_does_not_end_the_node(rig):
    """Deactivation and cleanup follow so closely that the answer has no service left to go out by."""
    from lifecycle_msgs.srv import ChangeState
    from std_srvs.srv import Trigger

    robot = rig.robot
    rig.order(seconds=3.0)
    robot.ask("plan_once", Trigger.Request())
    time.sleep(0.5)
    requests = [ChangeState.Request(), ChangeState.Request()]
    requests[0].transition.id, requests[1].transition.id = DEACTIVATE, CLEANUP
    futures = [robot.ask("change_state", request) for request in requests]
    robot.wait(lambda: all(future.done() for future in futures), "both are answered")
    assert robot.state() == "unconfigured"
    assert robot.change_state(CONFIGURE) and robot.change_state(ACTIVATE)
    rig.teach()
    rig.order()
    rig.run()
