"""What comes in: subscriptions that put messages into the mailbox, and what can be said of each topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CompressedImage, Image, JointState

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros import franka
from vjepa_ac_planner.ros.environment import Pending, RosEnvironment
from vjepa_ac_planner.ros.gripper import closedness
from vjepa_ac_planner.ros.images import to_rgb
from vjepa_ac_planner.ros.profile import RobotProfile, TopicsConfig
from vjepa_ac_planner.ros.stamps import to_seconds
from vjepa_ac_planner.types import Frame, RobotState

NEWEST = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1)
"""Franka's derived topics are best effort: a reliable subscriber would receive nothing, silently."""
RELIABLE = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
GRIPPER_AGE = 1.0
"""Oldest usable gripper state [s]: some drivers send it a few times a second only."""
STATUS_AGE = 0.5
"""Oldest usable robot mode [s]."""
_LOG_SECONDS = 1.0
"""Refusals of one topic are logged no more often than this [s]; most texts hold numbers that change."""


class Topic:
    """What is known about one topic we listen to."""

    def __init__(self, node: Any, what: str, kind: Any, name: str, qos: QoSProfile, use: Any) -> None:
        self.what, self.received, self.bad, self.last_bad = what, 0, 0, ""
        self.arrived: float | None = None
        """When the newest message came, steady clock [s]."""
        self._accepted: float | None = None
        """When the newest message that was looked at and found usable was, steady clock [s]."""
        self.refusing = False
        """Whether the newest message that was looked at is unusable."""
        self._told = float("-inf")
        self._node, self._use, self._qos, self._qos_problem = node, use, qos, ""
        events = SubscriptionEventCallbacks(incompatible_qos=self._incompatible)
        self.subscription = node.create_subscription(
            kind, name, self._callback, qos, event_callbacks=events
        )
        self.name = self.subscription.topic_name

    @property
    def age(self) -> float:
        """Time since the newest message came [s]; infinite before the first."""
        return float("inf") if self.arrived is None else time.monotonic() - self.arrived

    @property
    def qos_problem(self) -> str:
        """Which publishers cannot reach us because their quality of service is too low; mostly empty."""
        if not self._qos_problem:
            return ""
        publishers = self._node.get_publishers_info_by_topic(self.name)
        checks = [qos_check_compatible(entry.qos_profile, self._qos)[0] for entry in publishers]
        if QoSCompatibility.ERROR not in checks:
            return ""
        return f"QoS does not match: {self._qos_problem}"

    def accept(self) -> None:
        """A message was looked at and is usable."""
        self._accepted, self.refusing = time.monotonic(), False

    def reject(self, why: str) -> None:
        """Count an unusable message, and log it if it is a new kind of unusable."""
        self.bad, self.refusing = self.bad + 1, True
        now, known = time.monotonic(), why == self.last_bad
        self.last_bad = why
        if not known and now - self._told >= _LOG_SECONDS:
            self._told = now
            self._node.get_logger().warning(f"{self.name}: message refused: {why}")

    def usable(self, bound: float) -> bool:
        """Whether messages come, and not for longer than ``bound`` [s] only ones that are refused."""
        if self.age > bound or not self.refusing:
            return self.age <= bound
        return self._accepted is not None and time.monotonic() - self._accepted <= bound

    def missing(self, bound: float) -> str | None:
        """Why this topic is not usable at this moment; None if it is."""
        if self.usable(bound):
            return None
        if self.age <= bound:
            return f"{self.what}: what comes on {self.name} is refused: {self.last_bad}"
        publishers = self._node.count_publishers(self.name)
        text = (
            f"{self.what}: nothing received on {self.name}"
            if self.arrived is None
            else f"{self.what}: nothing on {self.name} for {self.age:.1f} s, allowed {bound:.1f} s"
        )
        text += f" ({publishers} publisher{'' if publishers == 1 else 's'}"
        if self.qos_problem:
            text += f"; {self.qos_problem}"
        if self.bad:
            text += f"; {self.bad} refused, last: {self.last_bad}"
        return f"{text})"

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self.subscription)

    def _callback(self, message: Any) -> None:
        self.received += 1
        self.arrived = time.monotonic()
        try:
            looked_at = self._use(message)
        except InputError as error:
            self.reject(str(error))
        except Exception as error:  # whatever a message holds, it must not end the node
            self.reject(f"{type(error).__name__}: {error}")
        else:
            if looked_at:
                self.accept()

    def _incompatible(self, info: Any) -> None:
        self._qos_problem = f"{info.last_policy_kind.name}, {info.total_count} publishers"
        self._node.get_logger().warning(f"{self.name}: incompatible QoS: {self._qos_problem}")


class Inputs:
    """All subscriptions of the planner node.

    Args:
        node: the node.
        profile: topics, frames and gripper of the robot.
        environment: the mailbox.
        stamps: ``header`` or ``arrival``.
        clock: time on the ROS clock [s].
        on_goal: called with every usable goal image.
    """

    def __init__(
        self,
        node: Any,
        profile: RobotProfile,
        environment: RosEnvironment,
        stamps: str,
        clock: Callable[[], float],
        on_goal: Callable[[Frame], None],
    ) -> None:
        self._profile, self._environment, self._clock, self._on_goal = profile, environment, clock, on_goal
        self._by_arrival = stamps == "arrival"
        self._chain = profile.chain()
        self._closedness = 0.0
        self._status: RobotStatus | None = None
        self.topics: dict[str, Topic] = {}
        try:
            self._listen_to_all(node, profile.topics)
        except BaseException:
            self.close()
            raise

    def missing(self) -> Iterator[str]:
        """Why planning cannot start, naming the topic; nothing if it can."""
        safety = self._profile.safety
        bounds = {
            "camera": safety.max_image_age,
            "end-effector pose": safety.max_state_age,
            "gripper": GRIPPER_AGE,
            "robot state": STATUS_AGE,
        }
        for what, bound in bounds.items():
            if what in self.topics and (why := self.topics[what].missing(bound)) is not None:
                yield why

    def status(self) -> RobotStatus | None:
        """What the robot says about itself; a robot that has stopped saying it is not ready."""
        topic = self.topics.get("robot state")
        if topic is None:
            return None
        why = topic.missing(STATUS_AGE)
        if self._status is None or why is not None:
            return RobotStatus(mode="unknown", errors=(why or "no usable robot state",))
        return self._status

    def looked_at(self, what: str, why: str | None) -> None:
        """A frame or state was taken from the mailbox: why it is unusable, None if it is not."""
        topic = self.topics.get("camera" if what == "image" else "end-effector pose")
        if topic is None:
            return  # closed
        if why is None:
            topic.accept()
        else:
            topic.reject(why)

    def close(self) -> None:
        """Stop listening to everything."""
        for topic in self.topics.values():
            topic.close()
        self.topics.clear()

    def _listen_to_all(self, node: Any, names: TopicsConfig) -> None:
        image = CompressedImage if names.image_transport == "compressed" else Image
        self._listen(node, "camera", image, names.image_topic, NEWEST, self._image)
        self._listen(node, "end-effector pose", _pose_type(), names.ee_pose, NEWEST, self._pose)
        if names.gripper is not None:
            self._listen(node, "gripper", JointState, names.gripper, NEWEST, self._gripper)
        if names.robot_state is not None:
            self._listen(
                node, "robot state", franka.state_message(), names.robot_state, NEWEST, self._robot
            )
        goal = CompressedImage if names.goal_image_transport == "compressed" else Image
        self._listen(node, "goal", goal, names.goal_image_topic, RELIABLE, self._goal)

    def _listen(self, node: Any, what: str, kind: Any, name: str, qos: QoSProfile, use: Any) -> None:
        self.topics[what] = Topic(node, what, kind, name, qos, use)

    def _stamp(self, header: Any) -> float:
        """Some drivers leave the stamp empty; then all that is known is when the message came."""
        seconds = to_seconds(header.stamp)
        return self._clock() if self._by_arrival or seconds == 0.0 else seconds

    # Each says whether the message was looked at: frames and poses are when they are needed.

    def _image(self, message: Any) -> bool:
        stamp = self._stamp(message.header)
        self._environment.put_frame(Pending(stamp, partial(_frame, message, stamp)))
        return False

    def _pose(self, message: Any) -> bool:
        gripper = self.topics.get("gripper")
        if gripper is None or gripper.usable(GRIPPER_AGE):
            stamp = self._stamp(message.header)
            state = partial(self._state, message, self._closedness, stamp)
            self._environment.put_state(Pending(stamp, state))
        # Else there is no state without the gripper: it grows stale, and diagnostics say why.
        return False

    def _state(self, message: Any, closed: float, stamp: float) -> RobotState:
        return replace(self._chain.robot_state(message, closed), stamp=stamp)

    def _gripper(self, message: Any) -> bool:
        self._closedness = closedness(message, self._profile.gripper)
        return True

    def _robot(self, message: Any) -> bool:
        self._status = franka.read_state(message, self._chain).status
        return True

    def _goal(self, message: Any) -> bool:
        self._on_goal(_frame(message, self._stamp(message.header)))
        return True


def _frame(message: Any, stamp: float) -> Frame:
    return Frame(to_rgb(message), stamp, message.header.frame_id)


def _pose_type() -> Any:
    from geometry_msgs.msg import PoseStamped

    return PoseStamped
