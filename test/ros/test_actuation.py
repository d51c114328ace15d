"""What arm and gripper are told: only while enabled, never in a dry run, and only what was asked for."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import rclpy

from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.ros import actuation
from vjepa_ac_planner.ros.outputs import Outputs
from vjepa_ac_planner.ros.profile import load_profile
from vjepa_ac_planner.types import Command, RobotState

HOME = np.array((0.5, 0.0, 0.3, 3.1, 0.0, 0.0, 0.0))
CLOSE = Command("move", HOME + [0.02, 0, 0, 0, 0, 0, 1.0], 0.25)
"""A step that also closes the hand."""


class Hand:
    """A gripper that notes what it is told."""

    def __init__(self):
        self.wanted, self.forgotten = None, 0

    def send(self, closedness, measured=None):
        self.wanted = closedness

    def hold(self):
        self.wanted = None

    def forget(self):
        self.wanted, self.forgotten = None, self.forgotten + 1

    def close(self):
        pass


class Arm:
    """What the environment knows of the robot."""

    def __init__(self):
        self.cancel, self.meanwhile, self.other = threading.Event(), None, None

    @property
    def state(self):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            self.other = threading.Thread(target=meanwhile)
            self.other.start()
            self.other.join(0.2)
        return RobotState(HOME, 100.0)


class Bench:
    """An actuation at work, with the profile of a real robot."""

    def __init__(self, monkeypatch, node, output="pose", dry=False):
        profile = load_profile("fr3")
        self.profile = replace(profile, output=output, safety=replace(profile.safety, dry_run=dry))
        self.safety, self.arm, self.hand = SafetyLayer(self.profile.safety), Arm(), Hand()
        monkeypatch.setattr(actuation, "make_gripper", lambda node, config: self.hand)
        self.outputs = Outputs(node, self.profile, node.get_clock().now, lambda: None)
        self.actuation = actuation.Actuation(
            node, profile.gripper, self.safety, self.arm, self.outputs, lambda: None, lambda: 100.0
        )
        self.actuation.activate(0.02)

    def dry(self, dry):
        self.safety.config = replace(self.safety.config, dry_run=dry)
        self.actuation.follow_dry_run()

    def close(self):
        self.actuation.disable()
        self.actuation.deactivate()
        self.outputs.close()


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("actuation")
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def bench(monkeypatch, node):
    bench = Bench(monkeypatch, node)
    yield bench
    bench.close()


def test_the_gripper_is_told_what_was_asked_for_and_nothing_else(bench):
    bench.actuation.command(CLOSE)
    assert bench.hand.wanted is None  # not enabled
    bench.actuation.enable()
    bench.actuation.command(replace(CLOSE, moves_gripper=False))
    assert bench.hand.wanted is None
    bench.actuation.command(CLOSE)
    assert bench.hand.wanted == 1.0
    bench.actuation.command(replace(CLOSE, kind="hold"))
    assert bench.hand.wanted is None
    bench.arm.cancel.set()
    bench.actuation.command(CLOSE)
    assert bench.hand.wanted is None


def test_a_dry_run_drops_what_the_gripper_was_to_do_and_takes_no_command(bench):
    bench.actuation.enable()
    bench.actuation.command(CLOSE)
    bench.dry(True)
    assert bench.hand.wanted is None
    bench.actuation.command(CLOSE)  # judged a moment before
    assert bench.hand.wanted is None
    bench.dry(False)
    bench.actuation.command(CLOSE)
    assert bench.hand.wanted == 1.0


def test_a_command_that_is_on_its_way_does_not_outlive_a_disable(bench):
    """The worker has passed the check when another thread disables."""
    bench.actuation.enable()
    bench.arm.meanwhile = bench.actuation.disable
    bench.actuation.command(CLOSE)
    bench.arm.other.join(20.0)
    assert not bench.arm.other.is_alive() and not bench.actuation.enabled
    assert bench.hand.wanted is None


def test_every_enable_forgets_what_the_hand_did_before(bench):
    bench.actuation.enable()
    bench.actuation.disable()
    bench.actuation.enable()
    assert bench.hand.forgotten == 2


@pytest.mark.parametrize("output", ["pose", "twist"])
def test_nothing_is_advertised_to_the_arm_in_a_dry_run(monkeypatch, node, output):
    """A controller that obeys one publisher only would stop obeying anybody else."""
    bench = Bench(monkeypatch, node, output, dry=True)
    try:
        topic = bench.outputs.command_topic
        assert topic == ("/target_pose" if output == "pose" else "/delta_twist_cmds")
        bench.actuation.enable()
        assert node.count_publishers(topic) == 0
        assert bench.outputs.command_publishers() == 1  # as there would be
        bench.dry(False)
        assert node.count_publishers(topic) == bench.outputs.command_publishers() == 1
        bench.actuation.deactivate()
        assert node.count_publishers(topic) == 0
    finally:
        bench.close()


def test_the_topic_is_there_before_anybody_can_enable(bench, node):
    assert node.count_publishers(bench.outputs.command_topic) == 1


def test_without_an_output_there_is_no_topic_and_nobody_to_count(monkeypatch, node):
    bench = Bench(monkeypatch, node, "none")
    try:
        bench.actuation.enable()
        assert (bench.outputs.command_topic, bench.outputs.command_publishers()) == ("", 1)
    finally:
        bench.close()
