"""Grippers: hysteresis, joint states, the topic backend, and actions against servers of the test."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from waiting import until

from vjepa_ac_planner.errors import InputError, MissingDependencyError
from vjepa_ac_planner.ros.gripper import GripperConfig, closedness, make_gripper
from vjepa_ac_planner.ros.gripper_actions import Hysteresis

pytestmark = pytest.mark.ros

CONFIG = GripperConfig()
FINGERS = CONFIG.finger_joints


def joints(*positions, names=FINGERS):
    return JointState(name=list(names), position=list(positions))


# Joint states.


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        (joints(0.04, 0.04), 0.0),
        (joints(0.0, 0.0), 1.0),
        (joints(0.02, 0.02), 0.5),
        (joints(0.0402, 0.0401), 0.0),
        (joints(-0.0005, 0.0), 1.0),
        (joints(0.0, 0.02, 0.02, names=("panda_joint1", *FINGERS)), 0.5),
        (joints(0.02, 0.02, names=FINGERS[::-1]), 0.5),
    ],
)
def test_closedness_is_one_less_the_share_of_the_stroke(message, closed):
    assert closedness(message, CONFIG) == pytest.approx(closed)


def test_a_gripper_that_reports_how_open_it_is():
    config = GripperConfig(finger_joints=("gripper",), stroke=1.0)
    assert closedness(joints(0.25, names=("gripper",)), config) == 0.75


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            joints(0.02, names=FINGERS[:1]),
            "no position of panda_finger_joint2; received panda_finger_joint1;",
        ),
        (
            JointState(name=list(FINGERS)),
            "no position of panda_finger_joint1, panda_finger_joint2; received none",
        ),
        (JointState(), "received none; correct finger_joints"),
        (joints(40.0, 40.0), r"received a width of 80 m, allowed 0 \.\. 0.08 m; is stroke"),
        (joints(math.nan, 0.04), "received a width of nan m"),
        (joints(-0.02, 0.0), "received a width of -0.02 m"),
    ],
)
def test_joint_states_that_cannot_be_trusted_are_refused(message, text):
    with pytest.raises(InputError, match=text):
        closedness(message, CONFIG)


# Hysteresis.


def states(*values):
    hysteresis = Hysteresis(CONFIG)
    return [hysteresis.update(value) for value in values]


def test_it_closes_and_opens_at_its_two_thresholds():
    values = (0.0, 0.34, 0.35, 0.3, 0.28, 0.27, 0.3, 0.34, 0.6, 1.0)
    assert states(*values) == [None, None, *["closed"] * 3, *["open"] * 3, "closed", "closed"]


def test_what_is_held_at_the_start_is_not_let_go_of():
    # A wide object measures nearly open; only to be more open than that is a wish to open.
    assert states(0.2, 0.21, 0.19, 0.2, 0.16) == [None] * 5
    assert states(0.2, 0.1) == [None, "open"]
    assert states(0.02, 0.0) == [None, None]
    assert states(0.9, 0.2) == ["closed", "open"]
    hysteresis = Hysteresis(CONFIG)
    assert [hysteresis.update(*pair) for pair in ((0.2, 0.2), (0.2, 0.24), (0.1, 0.2))] == [
        None,
        None,
        "open",
    ]


@pytest.mark.parametrize("measured", [0.1, 0.375, 0.9, 1.0])
def test_the_first_action_of_a_plan_may_open(measured):
    hysteresis = Hysteresis(CONFIG)
    assert hysteresis.update(max(0.0, measured - 0.75), measured) == "open"


def test_actions_of_a_planner_move_the_hand_as_they_mean():
    """Targets start at the measured closedness; actions under 0.25 are not sent."""
    for held in (0.06, 0.2, 0.375, 0.9, 1.0):
        closed = Hysteresis(CONFIG)
        assert closed.update(0.8, 0.025) == "closed"
        assert closed.update(min(1.0, held + 0.25), held) == "closed"
        assert closed.update(max(0.0, held - 0.75), held) == "open"
    opened = Hysteresis(CONFIG)
    opened.update(0.8, 0.025), opened.update(0.05, 0.8)
    assert opened.update(0.025 + 0.25, 0.025) == "open"
    assert opened.update(0.025 + 0.35, 0.025) == "closed"


def test_fingers_that_stand_half_closed_are_not_closed_by_saying_so():
    hysteresis = Hysteresis(CONFIG)
    assert [hysteresis.update(0.5, 0.5), hysteresis.update(0.4, 0.5)] == [None, None]
    assert hysteresis.update(0.6, 0.5) == "closed"
    assert Hysteresis(CONFIG).update(1.0, 0.98) == "closed"  # and fully closed is always a wish


@given(st.lists(st.floats(0, 1), max_size=30))
def test_between_the_thresholds_nothing_changes(values):
    hysteresis, before = Hysteresis(CONFIG), None
    for value in values:
        after = hysteresis.update(value)
        if after != before:
            assert value >= CONFIG.close_above if after == "closed" else value <= CONFIG.open_below
        if value >= CONFIG.close_above:
            assert after == "closed"
        if before == "closed" and value <= CONFIG.open_below:
            assert after == "open"
        before = after


# Backends.


@pytest.fixture
def node(ros):
    node = rclpy.create_node("planner_under_test")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield node
    executor.shutdown()
    thread.join(10.0)
    node.destroy_node()


def test_none_does_nothing_but_check():
    gripper = make_gripper(None, CONFIG)
    gripper.send(0.5, measured=0.2)
    gripper.hold()
    assert (gripper.status(), gripper.problem()) == ("none", None)
    for value in (1.5, -0.1, math.nan, math.inf):
        with pytest.raises(InputError, match=r"closedness must lie in 0 \(open\) \.\. 1 \(closed\)"):
            gripper.send(value)
    gripper.close()


def test_float_array_follows_the_value_as_openness(node):
    gripper = make_gripper(node, GripperConfig(backend="float_array", name="fingers"))
    assert gripper.status() == "float_array: nothing sent, nobody listens to fingers"
    received = []
    node.create_subscription(
        Float64MultiArray, "fingers", lambda message: received.append(list(message.data)), 10
    )
    assert until(lambda: gripper.problem() is None)
    for value in (0.0, 0.25, 1.0, 1 + 1e-9):
        gripper.send(value)
        time.sleep(0.05)
    assert until(lambda: len(received) == 4)
    assert received == [[1.0], [0.75], [0.0], [0.0]]
    assert gripper.status() == "float_array: closedness 1.00"
    gripper.hold()
    gripper.close()
    gripper.close()
    gripper.send(0.5)
    time.sleep(0.1)
    assert len(received) == 4


@pytest.mark.parametrize(
    ("backend", "package"), [("grasp", "franka_msgs"), ("gripper_command", "control_msgs")]
)
def test_a_missing_message_package_is_named_with_its_source(monkeypatch, node, backend, package):
    monkeypatch.setitem(sys.modules, f"{package}.action", None)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    before = len(list(node.timers)), len(list(node.waitables))
    with pytest.raises(MissingDependencyError) as caught:
        make_gripper(node, GripperConfig(backend=backend))
    text = str(caught.value)
    assert f"gripper backend {backend} needs the message package {package}" in text
    # apt has franka_msgs for Humble only.
    apt = "sudo apt install ros-$ROS_DISTRO-control-msgs, or " if package == "control_msgs" else ""
    assert f"): {apt}build {package} of https" in text
    assert (len(list(node.timers)), len(list(node.waitables))) == before


class Hand:
    """A gripper in a node of its own that behaves as it is told; like franka_gripper it runs every goal it
    accepts at once, preempts none, and stops only when cancelled."""

    def __init__(self, backend):
        package = "franka_msgs" if backend == "grasp" else "control_msgs"
        actions = pytest.importorskip(f"{package}.action", reason=f"no {package}", exc_type=ImportError)
        if backend == "grasp":
            self.kinds = {"grasp": (actions.Grasp, "hand/grasp"), "move": (actions.Move, "hand/move")}
        else:
            self.kinds = {"command": (actions.GripperCommand, "hand")}
        self.accept = self.succeed = True
        self.seconds = 0.2
        self.release = threading.Event()
        self.goals, self.ended, self.at_once, self.most_at_once = [], [], 0, 0
        self.lock = threading.Lock()
        self.servers = []
        self.node = rclpy.create_node("hand_under_test")
        self.executor = MultiThreadedExecutor(8)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def serve(self):
        for kind, (action, name) in self.kinds.items():
            self.servers.append(
                ActionServer(
                    self.node,
                    action,
                    name,
                    execute_callback=lambda handle, kind=kind, action=action: self.run(
                        kind, action, handle
                    ),
                    goal_callback=self.answer,
                    cancel_callback=lambda handle: CancelResponse.ACCEPT,
                    callback_group=ReentrantCallbackGroup(),
                )
            )
        return self

    def answer(self, goal):
        return GoalResponse.ACCEPT if self.accept else GoalResponse.REJECT

    def run(self, kind, action, handle):
        with self.lock:
            self.goals.append((kind, handle.request))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not handle.is_cancel_requested and not self.release.is_set():
            time.sleep(0.005)
        result = action.Result()
        if hasattr(result, "success"):
            result.success = self.succeed
            result.error = "" if self.succeed else "libfranka gripper: command failed!"
        else:
            result.stalled = self.succeed
        cancelled = handle.is_cancel_requested
        handle.canceled() if cancelled else handle.succeed() if self.succeed else handle.abort()
        with self.lock:
            self.at_once -= 1
            self.ended.append((kind, "cancelled" if cancelled else self.succeed))
        return result

    def names(self):
        with self.lock:
            return [self.describe(kind, goal) for kind, goal in self.goals]

    @staticmethod
    def describe(kind, goal):
        if kind == "command":
            return "open" if goal.command.position > 0.01 else "closed"
        return "open" if kind == "move" else "closed"

    def stop(self):
        self.release.set()
        self.executor.shutdown()
        self.thread.join(10.0)
        for server in self.servers:
            server.destroy()
        self.node.destroy_node()


@pytest.fixture(params=["grasp", "gripper_command"])
def pair(request, node):
    """A gripper and the hand it moves."""
    hand = Hand(request.param)
    gripper = make_gripper(node, GripperConfig(backend=request.param, name="hand", timeout=1.0))
    first = next(iter(hand.kinds))
    yield SimpleNamespace(gripper=gripper, hand=hand, backend=request.param, first=first)
    gripper.close()
    hand.stop()


def settle(pair, *values):
    """Tell the gripper values, and wait for the goal that they cause."""
    for value in values:
        pair.gripper.send(value)
    assert until(lambda: pair.gripper.status().endswith(": closed" if values[-1] > 0.5 else ": open"))


def test_it_closes_and_opens_with_the_goals_that_the_hand_needs(pair):
    pair.hand.serve()
    assert pair.gripper.status() == f"{pair.backend}: left as it is"
    settle(pair, 0.0, 1.0)
    settle(pair, 0.0)
    assert pair.hand.names() == ["closed", "open"]
    (_, close), (_, open_) = pair.hand.goals
    if pair.backend == "grasp":
        assert (close.width, close.speed, close.force) == (0.0, 0.05, 20.0)
        assert (close.epsilon.inner, close.epsilon.outer) == (0.08, 0.08)
        assert (open_.width, open_.speed) == (0.078, 0.05)
    else:
        # Position is half the width; an effort of 0 could stall the hand.
        assert (close.command.position, close.command.max_effort) == (0.0, 20.0)
        assert (open_.command.position, open_.command.max_effort) == (0.039, 20.0)
    assert pair.gripper.problem() is None


def test_a_stream_of_one_value_is_one_goal(pair):
    pair.hand.serve()
    for _ in range(100):
        pair.gripper.send(1.0)
        time.sleep(0.01)
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed")
    assert pair.hand.names() == ["closed"]


def test_one_goal_in_flight_and_the_latest_wish_next(pair):
    pair.hand.serve()
    pair.hand.seconds = 1.5
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 1)
    for value in (0.0, 1.0, 0.0, 1.0, 0.0):
        pair.gripper.send(value)
        time.sleep(0.02)
    assert ", open next" in pair.gripper.status()
    assert pair.gripper.problem() is None
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: open")
    assert (pair.hand.names(), pair.hand.most_at_once) == (["closed", "open"], 1)
    # Wishes that cancelled each other out while a goal was in flight cause none.
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 3)
    pair.gripper.send(0.0)
    pair.gripper.send(1.0)
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed")
    time.sleep(0.3)
    assert (pair.hand.names(), pair.hand.most_at_once) == (["closed", "open", "closed"], 1)


def test_threads_may_send_at_once(pair):
    pair.hand.serve()
    pair.hand.seconds = 0.1

    def stream(value):
        for step in range(200):
            pair.gripper.send((step + value) % 2)
            time.sleep(0.001)

    threads = [threading.Thread(target=stream, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(pair, 0.0, 1.0)
    assert pair.hand.most_at_once == 1


def test_sending_does_not_wait(pair):
    pair.hand.serve()
    begin = time.monotonic()
    for step in range(1000):
        pair.gripper.send(step % 2)
    assert time.monotonic() - begin < 0.5


def test_a_hand_that_is_not_there_is_waited_for_and_named(pair):
    pair.gripper.send(1.0)
    name = "hand/grasp" if pair.backend == "grasp" else "hand"
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: no action server {name}")
    assert pair.gripper.problem() == f"no action server {name}"
    pair.hand.serve()
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed")


def test_rejected_goals_are_counted_tried_again_and_given_up(pair):
    pair.hand.accept = False
    pair.hand.serve()
    pair.gripper.send(1.0)
    assert until(lambda: pair.gripper.problem() is not None)
    assert pair.gripper.problem() == "not closed: given up after 3 attempts (last goal rejected)"
    assert "; 3 rejected; last goal rejected" in pair.gripper.status()
    assert pair.hand.goals == []
    # Something else that is wanted is a new beginning.
    pair.hand.accept = True
    pair.gripper.send(0.0)
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: open; 3 rejected")
    assert pair.gripper.problem() is None


def test_aborted_goals_are_counted_and_succeed_at_a_later_attempt(pair):
    pair.hand.serve()
    pair.hand.succeed = False
    pair.gripper.send(1.0)
    assert until(lambda: "; 1 aborted; last goal aborted: " in pair.gripper.status())
    why = "libfranka gripper: command failed!" if pair.backend == "grasp" else "neither reached nor stalled"
    assert why in pair.gripper.status()
    assert pair.gripper.problem() is None
    pair.hand.succeed = True
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed; 1 aborted")
    assert pair.hand.names() == ["closed", "closed"]


def test_a_goal_that_never_ends_is_cancelled_and_the_latest_wish_goes_out(pair):
    pair.hand.serve()
    pair.hand.seconds = 60.0
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 1)
    pair.gripper.send(0.0)
    assert until(lambda: "1 timed out" in pair.gripper.status(), 5.0)
    assert "no result within 1 s" in pair.gripper.status()
    assert until(lambda: (pair.first, "cancelled") in pair.hand.ended)
    assert until(lambda: len(pair.hand.goals) == 2)
    pair.hand.release.set()
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: open; 1 timed out")
    assert pair.hand.names() == ["closed", "open"]


def test_a_hand_that_dies_in_the_middle_does_not_block_for_ever(pair):
    pair.hand.serve()
    pair.hand.seconds = 60.0
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 1)
    for server in pair.hand.servers:
        server.destroy()
    pair.hand.servers.clear()
    pair.hand.release.set()
    assert until(lambda: "1 timed out" in pair.gripper.status(), 5.0)
    assert until(lambda: (pair.gripper.problem() or "").startswith("no action server"))
    pair.hand.serve()
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed; 1 timed out")


def test_a_late_acceptance_is_cancelled(pair):
    pair.hand.serve()
    slow = threading.Event()
    answered = []

    def answer(goal):
        answered.append(goal)
        if len(answered) > 1:
            return GoalResponse.REJECT
        slow.wait(10.0)
        return GoalResponse.ACCEPT

    for server in pair.hand.servers:
        server.register_goal_callback(answer)
    pair.hand.seconds = 60.0
    pair.gripper.send(1.0)
    assert until(lambda: len(answered) == 1)
    assert until(lambda: "no answer within 1 s" in pair.gripper.status(), 5.0)
    # By the time the hand accepts it, something else may be wanted.
    slow.set()
    assert until(lambda: pair.hand.ended == [(pair.first, "cancelled")])


def test_holding_forgets_what_was_not_sent_yet(pair):
    pair.hand.serve()
    pair.hand.seconds = 0.5
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 1)
    pair.gripper.send(0.0)
    pair.gripper.hold()
    assert until(lambda: pair.gripper.status() == f"{pair.backend}: closed")
    time.sleep(0.3)
    # Between the thresholds the hand stays as it was told last: closed, not open.
    pair.gripper.send(0.3, 0.3)
    time.sleep(0.3)
    assert pair.hand.names() == ["closed"]
    settle(pair, 0.0)
    assert pair.hand.names() == ["closed", "open"]


def test_holding_ends_the_attempts(pair):
    pair.hand.serve()
    pair.hand.succeed = False
    pair.gripper.send(1.0)
    assert until(lambda: "1 aborted" in pair.gripper.status())
    pair.gripper.hold()
    time.sleep(1.5)
    assert (pair.hand.names(), pair.gripper.problem()) == (["closed"], None)


def test_a_hand_that_others_may_have_opened_is_closed_again(pair):
    pair.hand.serve()
    settle(pair, 1.0)
    pair.gripper.send(1.0, 0.0)
    time.sleep(0.2)
    assert pair.hand.names() == ["closed"]
    pair.gripper.forget()
    assert pair.gripper.status() == f"{pair.backend}: left as it is"
    pair.gripper.send(0.5, 0.5)  # no wish: it stands like that
    time.sleep(0.2)
    assert pair.hand.names() == ["closed"]
    settle(pair, 1.0)
    assert pair.hand.names() == ["closed", "closed"]


def test_closing_leaves_the_goal_in_flight_alone(pair):
    pair.hand.serve()
    pair.hand.seconds = 0.5
    pair.gripper.send(1.0)
    assert until(lambda: len(pair.hand.goals) == 1)
    pair.gripper.send(0.0)
    pair.gripper.close()
    pair.gripper.close()
    pair.gripper.send(0.0)
    assert (pair.gripper.status(), pair.gripper.problem()) == (f"{pair.backend}: off", None)
    assert until(lambda: len(pair.hand.ended) == 1)
    time.sleep(0.3)
    assert pair.hand.names() == ["closed"]
    assert pair.hand.ended[0][1] is True


PLANNER = """
import subprocess
import sys
import rclpy
from rclpy.executors import SingleThreadedExecutor
from vjepa_ac_planner.ros.gripper import GripperConfig, make_gripper

rclpy.init()
node = rclpy.create_node("planner_under_test")
executor = SingleThreadedExecutor()
executor.add_node(node)
gripper = make_gripper(node, GripperConfig(backend=sys.argv[1], name="hand"))
gripper.send(float(sys.argv[2]), 0.5)
while not gripper.status().endswith((": open", ": closed")):
    executor.spin_once(timeout_sec=0.1)
print(gripper.status(), gripper.problem())
"""


@pytest.mark.parametrize("backend", ["grasp", "gripper_command"])
def test_a_planner_that_is_killed_leaves_the_hand_to_its_goal_and_its_heir_takes_over(ros, backend):
    hand = Hand(backend).serve()
    planners = []

    def planner(closed):
        command = [sys.executable, "-c", PLANNER, backend, str(closed)]
        planners.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return planners[-1]

    try:
        hand.seconds = 2.0
        first = planner(1.0)
        assert until(lambda: len(hand.goals) == 1, 30.0)
        first.kill()
        first.wait(10.0)
        assert until(lambda: len(hand.ended) == 1)
        assert hand.ended[0][1] is True
        hand.seconds = 0.2
        output, _ = planner(0.0).communicate(timeout=30.0)
        assert output.strip() == f"{backend}: open None"
        assert (hand.names(), hand.most_at_once) == (["closed", "open"], 1)
    finally:
        for process in planners:
            process.kill()
        hand.stop()
