"""What comes in: subscriptions that put messages into the mailbox, and what can be said of each topic.

What comes many times a second is taken by a thread of its own (:mod:`.reader`), goals by the executor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

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
from vjepa_ac_planner.errors import InputError, MissingDependencyError
from vjepa_ac_planner.ros import franka
from vjepa_ac_planner.ros.environment import Pending, RosEnvironment
from vjepa_ac_planner.ros.gripper import closedness
from vjepa_ac_planner.ros.images import to_rgb
from vjepa_ac_planner.ros.profile import RobotProfile, TopicsConfig
from vjepa_ac_planner.ros.reader import POLL_SECONDS, LeftToReader, Reader
from vjepa_ac_planner.ros.stamps import to_seconds
from vjepa_ac_planner.types import Frame, RobotState

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError as error:
    raise MissingDependencyError(
        f"ROS 2: received {os.environ.get('ROS_DISTRO', 'a release')} without rclpy.event_handler, as "
        "Humble is; allowed Jazzy or later: source that, or run the planner on a machine that has it"
    ) from error

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
_STATUS_PERIOD = 0.02
"""How often the robot's mode is looked at [s]: a message of franka_msgs takes a millisecond to unpack."""
_LOG_SECONDS = 1.0
"""Refusals of one topic are logged no more often than this [s]; most texts hold numbers that change."""


class Topic:
    """What is known about one topic we listen to.

    Args:
        node: subscribes.
        what: what comes on it, for people.
        kind: class of the messages.
        name: of the topic.
        qos: least quality of service.
        use: takes a message, says whether it has looked into it, and raises InputError if it is unusable.
        group: None has the executor call back; else whoever takes the messages hands them to :meth:`take`.
    """

    def __init__(
        self,
        node: Any,
        what: str,
        kind: Any,
        name: str,
        qos: QoSProfile,
        use: Callable[[Any], bool],
        group: LeftToReader | None = None,
    ) -> None:
        self.what, self.received, self.bad, self.last_bad = what, 0, 0, ""
        self.arrived: float | None = None
        """When the newest message came, steady clock [s]."""
        self._accepted: float | None = None
        """When the newest message that was looked at and found usable was, steady clock [s]."""
        self.refusing = False
        """Whether the newest message that was looked at is unusable."""
        self._told = float("-inf")
        self._node, self._use, self._qos, self._qos_problem = node, use, qos, ""
        # What rclpy would log about quality of service is said by missing() instead.
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        self.subscription = node.create_subscription(
            kind, name, self.take, qos, callback_group=group, event_callbacks=events
        )
        self.name = self.subscription.topic_name

    @property
    def age(self) -> float:
        """Time since the newest message came [s]; infinite before the first."""
        return float("inf") if self.arrived is None else time.monotonic() - self.arrived

    @property
    def qos_problem(self) -> str:
        """Why publishers cannot reach us, if their quality of service is too low; mostly empty."""
        publishers = self._node.get_publishers_info_by_topic(self.name)
        checks = [qos_check_compatible(entry.qos_profile, self._qos) for entry in publishers]
        refused = [why for level, why in checks if level == QoSCompatibility.ERROR]
        if refused and refused[0] != self._qos_problem:
            self._node.get_logger().warning(f"{self.name}: incompatible QoS: {refused[0]}")
        self._qos_problem = refused[0] if refused else ""
        return f"QoS does not match: {self._qos_problem}" if refused else ""

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
        if problem := self.qos_problem:
            text += f"; {problem}"
        if self.bad:
            text += f"; {self.bad} refused, last: {self.last_bad}"
        return f"{text})"

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self.subscription)

    def take(self, message: Any) -> None:
        """Count a message and use it, whatever it holds."""
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
        self._group = LeftToReader()
        self._reader = Reader(lambda text: node.get_logger().error(text, throttle_duration_sec=1.0))
        try:
            self._listen_to_all(node, profile.topics)
        except BaseException:
            self.close()
            raise
        self._reader.start()

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

    def look(self) -> None:
        """Take what has come since the last look, whose period would otherwise pass first."""
        self._reader.look()

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
        self._reader.close()
        for topic in self.topics.values():
            topic.close()
        self.topics.clear()

    def _listen_to_all(self, node: Any, names: TopicsConfig) -> None:
        image = CompressedImage if names.image_transport == "compressed" else Image
        self._read(node, "camera", image, names.image_topic, self._image)
        self._read(node, "end-effector pose", _pose_type(), names.ee_pose, self._pose)
        if names.gripper is not None:
            self._read(node, "gripper", JointState, names.gripper, self._gripper)
        if names.robot_state is not None:
            state = franka.state_message()
            self._read(node, "robot state", state, names.robot_state, self._robot, _STATUS_PERIOD)
        goal = CompressedImage if names.goal_image_transport == "compressed" else Image
        self.topics["goal"] = Topic(node, "goal", goal, names.goal_image_topic, RELIABLE, self._goal)

    def _read(
        self,
        node: Any,
        what: str,
        kind: Any,
        name: str,
        use: Callable[[Any], bool],
        period: float = POLL_SECONDS,
    ) -> None:
        topic = self.topics[what] = Topic(node, what, kind, name, NEWEST, use, self._group)
        self._reader.add(topic.subscription, topic.take, period)

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
